// Keyboard navigation: the arrow keys move between messages, Enter selects one as a click does. Runs on page load.
() => {
  const MESSAGES = "#conversation .message-row .flex-wrap > .message";
  const messages = () => [...document.querySelectorAll(MESSAGES)];
  const shown = (selector) => [...document.querySelectorAll(selector)].find((one) => one.offsetParent !== null);
  const selected = () => document.querySelector(`${MESSAGES}[aria-current]`);
  const box = () => shown("#question textarea");
  let stop = null; // index of the tab stop; null while the focus is elsewhere: then the selected or last message
  let held = null; // the element with keyboard focus, if it is a message or in the toolbar
  let asking = false; // true after Delete, until the confirmation appears

  const setLabel = (message, index) => {
    const words = document.querySelector("#help").dataset[message.matches(".user") ? "message" : "reply"];
    const text = message.innerText.trim().replace(/\s+/g, " ").slice(0, 160);
    message.setAttribute("aria-label", `${words.replace("{number}", (index >> 1) + 1)}: ${text}`);
  };
  const go = (all, index) => all[Math.max(0, index)].focus();
  const select = (all, index) => [...all[index].querySelectorAll("[data-testid]")].pop().click();

  const KEYS = {
    ArrowUp: (all, index) => go(all, index - 1),
    ArrowDown: (all, index) => (all[index + 1] ?? box())?.focus(),
    Home: (all) => go(all, 0),
    End: (all) => go(all, all.length - 1),
    Enter: select,
    " ": select,
  };
  const OF_SELECTED = { ArrowLeft: "#bar-earlier", ArrowRight: "#bar-later", Delete: "#bar-delete" };

  const press = ({ key, target }) => {
    const all = messages();
    const index = all.indexOf(target);
    if (index >= 0 && KEYS[key]) {
      KEYS[key](all, index);
    } else if (target.matches(`${MESSAGES}[aria-current]`) && OF_SELECTED[key]) {
      const button = shown(`${OF_SELECTED[key]}:not(:disabled)`);
      asking = key === "Delete" && button !== undefined;
      button?.click();
    } else if (key === "ArrowUp" && target === box() && !target.value && all.length) {
      tidy(all); // the last message may be new
      (selected() ?? all.at(-1)).focus();
    } else if (key === "Escape" && (target === document.body || target.closest("#conversation, #below")) && selected()) {
      (shown("#bar-keep") ?? [...selected().querySelectorAll("[data-testid]")].pop()).click();
    } else {
      return false;
    }
    return true;
  };
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (press(event)) event.preventDefault();
  });

  document.addEventListener("focusin", ({ target }) => {
    const all = messages();
    const index = all.indexOf(target);
    const ours = index >= 0 || target.closest("#bar");
    held = ours && target.matches(":focus-visible") ? target : null;
    if (index >= 0) setLabel(target, (stop = index));
    else if (!target.closest("#conversation")) stop = null;
    tidy(all);
  });
  document.addEventListener("pointerdown", () => (held = null)); // the pointer decides where the focus goes

  const set = (element, attribute, value) => {
    if (element.getAttribute(attribute) === value) return;
    if (value === null) element.removeAttribute(attribute);
    else element.setAttribute(attribute, value);
  };
  // Gradio re-renders messages without the tab stop and without the mark of the selected one.
  const tidy = (all) => {
    const label = document.querySelector("#bar-label");
    set(label, "aria-live", "polite");
    const row = Number(label.querySelector("[data-row]")?.dataset.row ?? 0) - 1;
    const last = all.length - 1;
    const reached = Math.min(stop ?? (row < 0 ? last : row), last);
    all.forEach((message, index) => {
      set(message, "role", "article");
      set(message, "tabindex", index === reached ? "0" : "-1");
      set(message, "aria-current", index === row ? "true" : null);
    });
    const question = shown("#bar-sure_one");
    const lost = held && document.activeElement === document.body && !(held.isConnected && held.offsetParent);
    if (lost || (asking && question)) (question ?? all[reached] ?? box())?.focus();
    if (question) asking = false;
  };
  tidy(messages());
  let waiting = false;
  new MutationObserver(() => {
    if (waiting) return; // at most once per frame while an answer streams
    waiting = true;
    requestAnimationFrame(() => { waiting = false; tidy(messages()); });
  }).observe(document.body, { childList: true, subtree: true });
}
