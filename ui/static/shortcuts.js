// Keyboard shortcuts. Runs on page load.
() => {
  const find = (selector) => [...document.querySelectorAll(selector)].find((one) => one.offsetParent !== null);
  const helping = () => CSS.supports("selector(:popover-open)") && document.querySelector("#shortcuts:popover-open");
  const typing = (element) => element.matches("input, textarea, select, [contenteditable]");

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.defaultPrevented) return;
    const chord = event.ctrlKey || event.metaKey;
    const plain = !chord && !event.altKey;
    let target = null;
    if (event.key === "Escape" && plain && !helping()) {
      const inside = event.target.closest?.("#settings.open");
      target = inside ? inside.querySelector(".toggle-button") : find("#question .stop-button");
    } else if (event.code === "KeyO" && chord && event.shiftKey && !event.altKey) {
      target = document.querySelector("#history-new");
    } else if (event.key === "/" && plain && !typing(event.target)) {
      event.preventDefault();
      find("#question textarea")?.focus();
    }
    if (target) {
      event.preventDefault();
      target.click();
    }
  });
}
