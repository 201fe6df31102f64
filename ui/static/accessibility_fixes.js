// Fixes for the accessibility of Gradio's components. Runs when the page loads, and again when the DOM changes.
() => {
  const OURS = ["en", "de", "zh"];
  const mend = () => {
    // A list may not have buttons as children: axe reports it as critical (aria-required-children).
    document.querySelectorAll(".examples[role=list]").forEach((list) => list.removeAttribute("role"));
    // Name a group of choices by its question.
    document.querySelectorAll("fieldset:not([aria-label])").forEach((group) => {
      const name = group.querySelector("[data-testid=block-info]");
      if (name) group.setAttribute("aria-label", name.textContent);
    });
    // A model may link to pages and e-mail addresses only. Gradio's sanitizer also allows blob: and some others.
    document.querySelectorAll("#conversation .prose a[href]").forEach((link) => {
      if (!["http:", "https:", "mailto:"].includes(link.protocol)) link.removeAttribute("href");
    });
    // List markers and table columns follow the direction of the text.
    document.querySelectorAll("#conversation .prose :is(ul, ol, table, blockquote):not([dir])").forEach((block) => {
      block.dir = "auto";
    });
    // Wide tables scroll sideways, which must also work by keyboard.
    document.querySelectorAll("#conversation .prose table:not([tabindex])").forEach((table) => {
      if (table.scrollWidth > table.clientWidth) table.tabIndex = 0;
    });
    // Short cells do not wrap; long cells get a wide column.
    document.querySelectorAll("#conversation .prose :is(th, td)").forEach((cell) => {
      cell.classList.toggle("long", cell.textContent.length > 24);
    });
    // A block of code says its language above it.
    document.querySelectorAll("#conversation .code_wrap:not([data-language])").forEach((block) => {
      block.dataset.language = block.querySelector("code")?.className.match(/language-([\w+#-]+)/)?.[1] ?? "";
    });
    // The button that copies code has only an icon.
    document.querySelectorAll(".copy_code_button:not([aria-label])").forEach((button) => {
      button.setAttribute("aria-label", button.title || "copy");
    });
  };
  // Gradio sets the browser's language even when the page has no translation for it.
  const root = document.documentElement;
  if (!OURS.includes(root.lang.split("-")[0])) root.lang = "en";
  mend();
  let waiting = false;
  new MutationObserver(() => {
    if (waiting) return; // at most once per frame while an answer streams
    waiting = true;
    requestAnimationFrame(() => { waiting = false; mend(); });
  }).observe(document.body, { childList: true, subtree: true });
}
