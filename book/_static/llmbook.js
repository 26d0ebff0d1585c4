// Small mends to the theme's markup, for keyboards and screen readers.
"use strict";

(function () {
  // A button's accessible name must hold the words that it shows.
  for (const node of document.querySelectorAll("[aria-label]")) {
    const words = node.innerText.trim();
    const label = node.getAttribute("aria-label");
    const button = node.matches("button, a, summary");
    if (button && words && !label.toLowerCase().includes(words.toLowerCase())) {
      node.removeAttribute("aria-label");
    }
  }
})();
