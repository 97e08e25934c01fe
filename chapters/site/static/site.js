// What the theme leaves to be said to screen readers and keyboards.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("p.caption[role=heading]").forEach((caption) => {
    caption.setAttribute("aria-level", "2");
  });
  document.querySelector("aside.sidebar-drawer")?.setAttribute("aria-label", "Site");
  document.querySelector("aside.toc-drawer")?.setAttribute("aria-label", "Page");
  // Sphinx writes the arguments of long signatures as definitions without terms.
  document.querySelectorAll("dt.sig > dl").forEach((list) => {
    const box = document.createElement("div");
    box.className = "parameters";
    for (const item of list.children) {
      const line = document.createElement("div");
      line.append(...item.childNodes);
      box.append(line);
    }
    list.replaceWith(box);
  });
  // Code and tables wider than the window scroll; keys scroll only what can have the focus.
  const reachable = () => {
    document.querySelectorAll("article pre, article .table-wrapper").forEach((box) => {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    });
  };
  reachable();
  addEventListener("resize", reachable);
});
