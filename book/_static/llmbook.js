// Small mends to the theme's markup, for keyboards and screen readers.
"use strict";

(function () {
  // A button's accessible name must hold the words that it shows.
  for (const node of document.querySelectorAll(
    "button[aria-label], a[aria-label], summary[aria-label]"
  )) {
    const words = (node.innerText || "").trim().toLowerCase();
    const label = node.getAttribute("aria-label").toLowerCase();
    if (words && !label.includes(words)) {
      node.removeAttribute("aria-label");
    }
  }

  // Everything on a page belongs to a landmark.
  const sidebar = document.querySelector(".bd-sidebar-primary");
  if (sidebar && !sidebar.hasAttribute("role")) {
    sidebar.setAttribute("role", "region");
    sidebar.setAttribute("aria-label", "The book");
  }

  // What scrolls sideways can be scrolled by the arrow keys.
  for (const node of document.querySelectorAll(
    ".bd-article pre, .bd-article .llm-graphic, .bd-article div.math"
  )) {
    if (node.scrollWidth > node.clientWidth) {
      node.tabIndex = 0;
    }
  }
})();
