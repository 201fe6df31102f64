// Messages by keyboard: the arrows go through them, Enter marks one as a click does. Runs once when the page is loaded.
() => {
  const MESSAGES = "#conversation .message-row .flex-wrap > .message";
  const messages = () => [...document.querySelectorAll(MESSAGES)];
  const shown = (selector) => [...document.querySelectorAll(selector)].find((one) => one.offsetParent !== null);
  const marked = () => document.querySelector(`${MESSAGES}[aria-current]`);
  const box = () => shown("#question textarea");
  let stop = null; // the message that Tab comes to; none while the keyboard is elsewhere: the marked or last one
  let held = null; // what the keyboard is on, as long as it is a message or in the bar
  let asking = false; // whether Delete was pressed, and its question is to come

  const tell = (message, index) => {
    const words = document.querySelector("#help").dataset[message.matches(".user") ? "message" : "reply"];
    const text = message.innerText.trim().replace(/\s+/g, " ").slice(0, 160);
    message.setAttribute("aria-label", `${words.replace("{number}", (index >> 1) + 1)}: ${text}`);
  };
  const go = (all, index) => all[Math.max(0, index)].focus();
  const mark = (all, index) => [...all[index].querySelectorAll("[data-testid]")].pop().click();

  const KEYS = {
    ArrowUp: (all, index) => go(all, index - 1),
    ArrowDown: (all, index) => (all[index + 1] ?? box())?.focus(),
    Home: (all) => go(all, 0),
    End: (all) => go(all, all.length - 1),
    Enter: mark,
    " ": mark,
  };
  const OF_THE_MARKED = { ArrowLeft: "#bar-earlier", ArrowRight: "#bar-later", Delete: "#bar-delete" };

  const press = ({ key, target }) => {
    const all = messages();
    const index = all.indexOf(target);
    if (index >= 0 && KEYS[key]) {
      KEYS[key](all, index);
    } else if (target.matches(`${MESSAGES}[aria-current]`) && OF_THE_MARKED[key]) {
      const button = shown(`${OF_THE_MARKED[key]}:not(:disabled)`);
      asking = key === "Delete" && button !== undefined;
      button?.click();
    } else if (key === "ArrowUp" && target === box() && !target.value && all.length) {
      tidy(all); // the last one may have come just now
      (marked() ?? all.at(-1)).focus();
    } else if (key === "Escape" && (target === document.body || target.closest("#conversation, #below")) && marked()) {
      (shown("#bar-keep") ?? [...marked().querySelectorAll("[data-testid]")].pop()).click();
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
    if (index >= 0) tell(target, (stop = index));
    else if (!target.closest("#conversation")) stop = null;
    tidy(all);
  });
  document.addEventListener("pointerdown", () => (held = null)); // where the focus goes now is the hand's to say

  const set = (element, attribute, value) => {
    if (element.getAttribute(attribute) === value) return;
    if (value === null) element.removeAttribute(attribute);
    else element.setAttribute(attribute, value);
  };
  // Gradio paints messages anew, and knows neither the one that Tab comes to nor the one that the bar is about.
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
    if (waiting) return; // once a frame is enough while an answer streams
    waiting = true;
    requestAnimationFrame(() => { waiting = false; tidy(messages()); });
  }).observe(document.body, { childList: true, subtree: true });
}
