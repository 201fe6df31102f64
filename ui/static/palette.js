// The dialog of Ctrl+K: type to find chats and commands. A command is a button of the page, under its own name.
(() => {
  const COMMANDS = ["#history-new", "#open-chat", "#open-compare", "#open-quality", "#rail-settings", "#switch-theme"];
  const isMac = /Mac|iPhone|iPad/.test(navigator.platform); // there Ctrl+K cuts to the end of a line
  const SEARCH_AFTER = 120; // milliseconds

  window.ggufPalette = (marks, chats) => {
    const make = window.ggufChat.create;
    let [options, at, asked, timer] = [[], 0, 0, 0];
    const texts = chats.texts;
    const list = make("ul", { id: "palette-list", role: "listbox" });
    const input = make("input", { type: "text", role: "combobox", "aria-expanded": "true", "aria-controls": "palette-list", "aria-autocomplete": "list", autocomplete: "off", spellcheck: "false", maxlength: 200 });
    const dialog = make("dialog", { id: "palette", class: "chats-dialog", onclick: (event) => event.target === dialog && dialog.close() }, make("div", {}, input, list));
    document.querySelector("#palette")?.remove(); // Gradio may draw the list anew
    document.body.append(dialog);

    const commands = (words) => COMMANDS.map((selector) => document.querySelector(selector)).filter(Boolean)
      .map((button) => ({ text: button.textContent.trim(), run: () => button.click() }))
      .filter(({ text }) => words.every((word) => text.toLowerCase().includes(word)));
    const choose = (next) => {
      at = Math.max(0, Math.min(next, options.length - 1));
      [...list.children].forEach((row, i) => row.setAttribute("aria-selected", String(i === at)));
      list.children[at]?.scrollIntoView({ block: "nearest" });
      if (options.length) input.setAttribute("aria-activedescendant", `palette-${at}`);
      else input.removeAttribute("aria-activedescendant");
    };
    const run = (i) => {
      const option = options[i];
      if (!option) return;
      dialog.close();
      option.run();
    };
    const draw = (found) => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      const titles = found.map((chat) => ({ chat, run: () => chats.show(chat.id) }));
      options = words.length ? [...titles, ...commands(words)] : [...commands(words), ...titles];
      list.replaceChildren(...options.map(({ chat, text }, i) => make("li", { id: `palette-${i}`, role: "option", class: chat ? "chat" : "command", onclick: () => run(i), onpointermove: () => at === i || choose(i) },
        make("bdi", { class: "chats-title" }, ...(chat?.marked ? marks(chat.marked) : [chat?.title ?? text])),
        chat?.excerpt?.join("") ? make("bdi", { class: "chats-excerpt" }, ...marks(chat.excerpt)) : null)));
      if (!options.length) list.append(make("li", { role: "option", "aria-disabled": "true", class: "none" }, texts().not_found));
      choose(0);
    };
    const look = async () => {
      const mine = ++asked, found = await chats.find(input.value);
      if (mine === asked && dialog.open) draw(found);
    };
    const show = () => {
      if (dialog.open) return dialog.close();
      input.value = "";
      for (const part of [dialog, list, input]) part.setAttribute("aria-label", texts().palette ?? "");
      input.placeholder = texts().palette ?? "";
      draw([]);
      dialog.showModal();
      input.focus();
      look();
    };
    input.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(look, SEARCH_AFTER);
    });
    dialog.addEventListener("keydown", (event) => {
      event.stopPropagation(); // Esc does not end an answer, "/" does not leave
      if (isChord(event)) {
        event.preventDefault();
        return dialog.close();
      }
      if (event.isComposing) return;
      const step = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 8, PageUp: at - 8 }[event.key];
      if (step !== undefined) choose(event.key === "ArrowDown" && at === options.length - 1 ? 0 : event.key === "ArrowUp" && !at ? options.length - 1 : step);
      else if (event.key === "Enter") run(at);
      else return;
      event.preventDefault();
    });
    const isChord = (event) => event.code === "KeyK" && (isMac ? event.metaKey && !event.ctrlKey : event.ctrlKey && !event.metaKey) && !event.shiftKey && !event.altKey;
    window.ggufPaletteKey?.abort();
    window.ggufPaletteKey = new AbortController();
    document.addEventListener("keydown", (event) => {
      if (!isChord(event)) return;
      event.preventDefault();
      show();
    }, { signal: window.ggufPaletteKey.signal });
  };
})();
