// Keyboard shortcuts, and copying the original text. Runs on page load.
() => {
  const find = (selector) => [...document.querySelectorAll(selector)].find((one) => one.offsetParent !== null);
  const helping = () => CSS.supports("selector(:popover-open)") && document.querySelector("#shortcuts:popover-open");
  const typing = (element) => element.matches("input, textarea, select, [contenteditable]");

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.defaultPrevented) return;
    const chord = event.ctrlKey || event.metaKey;
    const plain = !chord && !event.altKey;
    let target = null;
    const edited = event.target.closest?.(".edit-textarea") && event.target.closest(".message-row");
    const buttons = edited?.nextElementSibling?.querySelectorAll("button") ?? [];
    if (edited && event.key === "Enter" && !event.shiftKey) {
      target = buttons[0];
    } else if (edited && event.key === "Escape") {
      target = buttons[1];
    } else if (event.key === "Escape" && plain && !helping()) {
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

  // A click on a message selects it; selecting text in it or following a link does not.
  document.addEventListener(
    "click",
    (event) => {
      const inside = event.isTrusted && event.target.closest?.("#conversation .message"); // message_keyboard.js also clicks
      if (inside && (event.target.closest("a, summary") || !window.getSelection().isCollapsed)) event.stopPropagation();
    },
    true,
  );

  // ui/render/messages.py inserts word joiners into an answer; copying restores the original text.
  const restore = (text) => text.replace(/([<!\\$]|```)\u2060(?=[A-Za-z/!?()[\]$])/g, "$1");
  const clipboard = navigator.clipboard;
  if (clipboard) {
    const write = clipboard.writeText.bind(clipboard);
    clipboard.writeText = (text) => write(restore(text));
  }
  document.addEventListener("copy", (event) => {
    const area = document.activeElement;
    const chosen = area?.matches?.("textarea")
      ? area.value.slice(area.selectionStart, area.selectionEnd)
      : String(window.getSelection());
    if (chosen === restore(chosen)) return;
    event.clipboardData.setData("text/plain", restore(chosen));
    event.preventDefault();
  });
}
