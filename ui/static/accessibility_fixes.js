// What Gradio's own parts leave out. Runs once, as the page loads, and looks again when something changes.
() => {
  const OURS = ["en", "de", "zh"];
  const mend = () => {
    // A list whose children are buttons is no list: axe calls that critical (aria-required-children).
    document.querySelectorAll(".examples[role=list]").forEach((list) => list.removeAttribute("role"));
    // A group of choices has its question as its name.
    document.querySelectorAll("fieldset:not([aria-label])").forEach((group) => {
      const name = group.querySelector("[data-testid=block-info]");
      if (name) group.setAttribute("aria-label", name.textContent);
    });
    // What a model links to is a page or an address. Gradio's sanitizer lets through blob: and a few more.
    document.querySelectorAll("#conversation .prose a[href]").forEach((link) => {
      if (!["http:", "https:", "mailto:"].includes(link.protocol)) link.removeAttribute("href");
    });
    // A list's marks and a table's columns run as its words do.
    document.querySelectorAll("#conversation .prose :is(ul, ol, table, blockquote):not([dir])").forEach((block) => {
      block.dir = "auto";
    });
    // Who has no mouse must reach what scrolls sideways.
    document.querySelectorAll("#conversation .prose table:not([tabindex])").forEach((table) => {
      if (table.scrollWidth > table.clientWidth) table.tabIndex = 0;
    });
    // A table that scrolls breaks no short cell, and gives a long one room.
    document.querySelectorAll("#conversation .prose :is(th, td)").forEach((cell) => {
      cell.classList.toggle("long", cell.textContent.length > 24);
    });
    // The button that copies code has an icon alone.
    document.querySelectorAll(".copy_code_button:not([aria-label])").forEach((button) => {
      button.setAttribute("aria-label", button.title || "copy");
    });
  };
  // Gradio names the browser's language, also when our texts do not speak it.
  const root = document.documentElement;
  if (!OURS.includes(root.lang.split("-")[0])) root.lang = "en";
  mend();
  let waiting = false;
  new MutationObserver(() => {
    if (waiting) return; // once a frame is enough while an answer streams
    waiting = true;
    requestAnimationFrame(() => { waiting = false; mend(); });
  }).observe(document.body, { childList: true, subtree: true });
}
