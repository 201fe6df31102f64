// Fixes for the accessibility of Gradio's components. Runs when the page loads, and again when the DOM changes.
() => {
  const OURS = ["en", "de", "zh"];
  const mend = () => {
    // Name a group of choices by its question.
    document.querySelectorAll("fieldset:not([aria-label])").forEach((group) => {
      const name = group.querySelector("[data-testid=block-info]");
      if (name) group.setAttribute("aria-label", name.textContent);
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
