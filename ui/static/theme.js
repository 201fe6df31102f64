// Light or dark: the system's choice, or the one made with the switch, which the browser remembers.
// Runs in the page's head, before anything is drawn. Gradio sets the class of <body> by the system's choice alone.
// It also names the page for its style, and opens and closes the settings, since Gradio's own events are connected late.
(() => {
  const KEY = "gguf-chat.theme", root = document.documentElement;
  const read = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const dark = () => matchMedia("(prefers-color-scheme: dark)").matches;
  let chosen = read();
  const apply = () => {
    const wanted = chosen === "light" || chosen === "dark" ? chosen : dark() ? "dark" : "light";
    const other = wanted === "dark" ? "light" : "dark";
    for (const element of [root, document.body]) {
      if (!element || (element.classList.contains(wanted) && !element.classList.contains(other))) continue;
      element.classList.remove(other); // a change always counts as one for the observer below
      element.classList.add(wanted);
    }
  };
  const switchTheme = () => {
    chosen = root.classList.contains("dark") ? "light" : "dark";
    try { localStorage.setItem(KEY, chosen); } catch { /* a browser without storage forgets it */ }
    apply();
  };
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#switch-theme")) switchTheme();
    if (event.target.closest?.("#open-settings, #rail-settings")) document.querySelector("#settings .toggle-button")?.click();
  });
  root.classList.add(`on-${location.pathname.match(/(compare|quality)\/?$/)?.[1] ?? "chat"}`); // the page, for its style
  apply();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    apply();
    new MutationObserver(apply).observe(document.body, { attributeFilter: ["class"] });
  });
})();
