// A live notebook has no page to set the caption: it stands in the widget.
function render({ model, el }) {
  const data = model.get("data");
  const unmount = mount(el, DRAW, data, new ModelState(model, NAMES));
  if (data.caption) {
    const caption = element("p");
    caption.innerHTML = data.caption; // the author's own, made in Python
    el.append(caption);
  }
  return unmount;
}

export default { render };
