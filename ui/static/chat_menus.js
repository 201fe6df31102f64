// The menu of a chat in the list, and the dialog that asks for a folder.
(() => {
  const make = window.ggufChat.create;

  // Show the menu beside its button; `act` has a function for each entry, and `leave`, which takes the focus back.
  window.ggufChatMenu = (button, texts, chat, act) => {
    document.querySelector("#chat-menu")?.close();
    const entries = [
      ["rename", texts.rename, "F2"],
      ["pin", chat.pinned ? texts.unpin : texts.pin],
      ["move", texts.move],
      ["markdown", texts.as_markdown],
      ["json", texts.as_json],
      ["select", texts.select],
      ["delete", texts.delete, "Del"],
    ];
    const menu = make("div", { id: "chat-menu", role: "menu", "aria-label": button.getAttribute("aria-label") },
      ...entries.map(([name, text, key]) => make("button", { type: "button", role: "menuitem", tabindex: -1, class: `chat-menu-${name}`, onclick: () => {
        menu.close();
        act[name]();
      } }, make("span", {}, text), key ? make("kbd", { "aria-hidden": "true" }, key) : null)));
    const outside = (event) => menu.contains(event.target) || button.contains(event.target) || menu.close();
    const width = innerWidth, turned = () => innerWidth === width || menu.close(); // a phone's bar changes only the height
    menu.close = (back) => {
      menu.remove();
      button.setAttribute("aria-expanded", "false");
      document.removeEventListener("pointerdown", outside, true);
      window.removeEventListener("resize", turned);
      if (back === true) act.leave();
    };
    menu.addEventListener("keydown", (event) => {
      const all = [...menu.children], at = all.indexOf(document.activeElement);
      const step = { ArrowDown: at + 1, ArrowUp: at - 1 + all.length, Home: 0, End: all.length - 1 }[event.key];
      if (step !== undefined) all[step % all.length].focus();
      else if (["Escape", "Tab", "ArrowLeft"].includes(event.key)) menu.close(true);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    document.body.append(menu);
    button.setAttribute("aria-expanded", "true");
    const [place, size] = [button.getBoundingClientRect(), menu.getBoundingClientRect()];
    const left = Math.min(place.left, innerWidth - size.width - 8);
    const below = place.bottom + 4 + size.height < innerHeight;
    Object.assign(menu.style, { left: `${Math.max(8, left)}px`, top: `${Math.max(8, below ? place.bottom + 4 : place.top - size.height - 4)}px` });
    document.addEventListener("pointerdown", outside, true);
    window.addEventListener("resize", turned);
    menu.firstElementChild.focus();
  };

  // Ask for a folder: one that there is, a new one by its name, or none; call `move` with it, or `leave`.
  window.ggufFolderDialog = (texts, names, current, move, leave) => {
    let moved = false;
    const input = make("input", { type: "text", maxlength: 60, placeholder: texts.new_folder, "aria-label": texts.new_folder, autocomplete: "off" });
    const choose = (name) => {
      moved = true;
      dialog.close();
      move(name);
    };
    const option = (name, text) => make("button", { type: "button", class: name === current ? "chosen" : "", "aria-pressed": String(name === current), onclick: () => choose(name) }, make("bdi", {}, text));
    const form = make("form", { onsubmit: (event) => {
      event.preventDefault();
      if (input.value.trim()) choose(input.value.trim());
    } }, input, make("button", { type: "submit", class: "first" }, texts.move_here));
    const dialog = make("dialog", { class: "chats-dialog", "aria-label": texts.folder, onclose: () => {
      dialog.remove();
      if (!moved) leave();
    }, onclick: (event) => event.target === dialog && dialog.close() },
      make("div", {}, make("h2", {}, texts.folder), make("div", { class: "chats-choices" }, ...names.map((name) => option(name, name)), option("", texts.no_folder)), form,
        make("button", { type: "button", onclick: () => dialog.close() }, texts.cancel)));
    dialog.addEventListener("keydown", (event) => event.stopPropagation()); // Esc does not end an answer
    document.body.append(dialog);
    dialog.showModal();
    input.focus();
  };
})();
