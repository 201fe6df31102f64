// One message: its text, its thoughts, and its tools; editing it; and the keyboard.
(() => {
  const ggufChat = (window.ggufChat ??= {});
  const { create } = ggufChat;

  const thoughtsOf = (item, growing) => {
    const { words } = ggufChat;
    const body = create("div", { class: "markdown" });
    const summary = create("summary", {}, item.thinking ? words.thinking : words.thoughts, create("span", {}, item.thought_words));
    const details = create("details", { class: "thoughts" }, summary, body);
    const fill = () => details.open && ggufChat.fill(body, item.thoughts, !growing);
    details.addEventListener("toggle", fill);
    return details;
  };

  /** Draw an answer that grows into its article. */
  ggufChat.growMessage = (article, item) => {
    const { words } = ggufChat;
    let body = article.querySelector(":scope > .markdown");
    let details = article.querySelector(".thoughts");
    if (!body) article.replaceChildren((body = create("div", { class: "markdown" })));
    if (item.thoughts !== null && !details) article.prepend((details = thoughtsOf(item, true)));
    if (details) {
      const [name, count] = details.querySelector("summary").childNodes;
      name.data = item.thinking ? words.thinking : words.thoughts;
      count.textContent = item.thought_words;
      if (details.open) ggufChat.fill(details.querySelector(".markdown"), item.thoughts, false);
    }
    article.classList.toggle("thinking", item.thinking);
    ggufChat.fill(body, item.text, false);
  };

  const tool = (name, label, act, attributes = {}) =>
    create("button", { type: "button", class: `tool ${name}`, title: label, "aria-label": label, tabindex: -1, onclick: act, ...attributes });

  const versionsOf = (list, item) => {
    const { words } = ggufChat;
    const at = item.versions.indexOf(item.id);
    const turn = (step) => () => {
      const to = item.versions[at + step];
      if (to !== undefined && !list.busy) list.trigger("switch", { node: to });
    };
    const count = ggufChat.fillIn(words.version, { number: at + 1, count: item.versions.length });
    return create(
      "span",
      { class: "versions" },
      tool("earlier", words.earlier, turn(-1), { "aria-disabled": at === 0 && "true" }),
      create("span", { "aria-label": count }, `${at + 1}/${item.versions.length}`),
      tool("later", words.later, turn(1), { "aria-disabled": at === item.versions.length - 1 && "true" }),
    );
  };

  const toolsOf = (list, item, article) => {
    const { words } = ggufChat;
    const isAnswer = item.role === "assistant";
    const copy = async ({ currentTarget }) => {
      if (!(await ggufChat.copy(item.text))) return;
      currentTarget?.classList.add("copied");
      setTimeout(() => article.querySelector(".copied")?.classList.remove("copied"), 1500);
    };
    const rate = (opinion) => () => {
      list.trigger("rate", { node: item.id, opinion: item.opinion === opinion ? null : opinion });
    };
    const thumb = (opinion) => tool(opinion, words[opinion], rate(opinion), { "aria-pressed": String(item.opinion === opinion) });
    const retry = () => {
      if (list.busy) return;
      list.replace(item);
      list.trigger("retry", { node: item.id });
    };
    const goOn = () => list.busy || list.trigger("continue", { node: item.id });
    return create(
      "div",
      { class: "tools" },
      tool("copy", words.copy, copy),
      tool("edit", words.edit, () => edit(list, item, article)),
      ...(isAnswer ? [tool("retry", words.retry, retry)] : []),
      item.versions.length > 1 ? versionsOf(list, item) : null,
      ...(isAnswer ? [thumb("like"), thumb("dislike")] : []),
      tool("more", words.more, ({ currentTarget }) => openMessageMenu(list, item, article, currentTarget), { "aria-haspopup": "menu" }),
      item.cut ? create("button", { type: "button", class: "chip continue", onclick: goOn }, words.continue) : null,
      item.stats ? create("button", { type: "button", class: "stats", title: words.details, tabindex: -1, onclick: () => showDetails(item, article) }, item.stats) : null,
    );
  };

  const showDetails = (item, article) => {
    const shown = article.querySelector(".details");
    if (shown) return shown.remove();
    const rows = item.details.flatMap(([name, value]) => [create("dt", {}, name), create("dd", {}, value)]);
    article.append(create("dl", { class: "details" }, ...rows));
  };

  const openMessageMenu = (list, item, article, button) => {
    const { words } = ggufChat;
    const entry = (name, act) => create("button", { type: "button", role: "menuitem", class: name, onclick: ggufChat.closing(act) }, words[name]);
    const entries = [
      item.stats ? entry("details", () => showDetails(item, article)) : null,
      item.role === "assistant" ? entry("probabilities", () => ggufChat.askProbabilities(list, item, article)) : null,
      item.role === "user" ? entry("undo", () => list.trigger("undo", { node: item.id })) : null,
      entry("delete", () => list.trigger("delete", { node: item.id })),
    ];
    ggufChat.openMenu(button, words.more, entries.filter(Boolean));
  };

  /** Return a listener that closes the menu and acts. */
  ggufChat.closing = (act) => () => {
    document.querySelector("#message-menu").hidePopover();
    act();
  };

  /** Open the menu beside a button; `label` is its name. */
  ggufChat.openMenu = (button, label, entries) => {
    const menu = document.querySelector("#message-menu");
    menu.setAttribute("aria-label", label);
    menu.replaceChildren(...entries);
    menu.showPopover();
    const place = button.getBoundingClientRect();
    const above = place.bottom + menu.offsetHeight + 8 > innerHeight;
    menu.style.top = `${above ? place.top - menu.offsetHeight - 4 : place.bottom + 4}px`;
    menu.style.left = `${Math.max(8, Math.min(place.left, innerWidth - menu.offsetWidth - 8))}px`;
    menu.from = button;
    menu.firstChild.focus();
  };
  document.addEventListener("keydown", (event) => {
    const menu = event.target.closest?.("#message-menu");
    if (!menu) return;
    const all = [...menu.children], at = all.indexOf(event.target);
    const to = { ArrowDown: all[at + 1] ?? all[0], ArrowUp: all.at(at - 1), Home: all[0], End: all.at(-1) }[event.key];
    if (event.key === "Escape" || event.key === "Tab") {
      menu.hidePopover();
      menu.from?.focus();
    } else if (!to) return;
    to?.focus();
    event.preventDefault();
    event.stopPropagation();
  });

  const edit = (list, item, article) => {
    if (list.busy || article.querySelector("textarea")) return;
    const { words } = ggufChat;
    const isAnswer = item.role === "assistant";
    const box = create("textarea", { "aria-label": words.edit, rows: 1 });
    box.value = item.edited;
    const close = () => {
      form.remove();
      article.classList.remove("editing");
      article.focus();
    };
    const save = () => {
      const isNew = box.value.trim() && box.value !== item.edited;
      close();
      if (!isNew) return;
      if (!isAnswer) {
        list.replace(item);
        list.sent(box.value);
      }
      list.trigger("edit", { node: item.id, role: item.role, text: box.value });
    };
    const form = create(
      "div",
      { class: "editor" },
      box,
      create("div", {}, create("button", { type: "button", class: "primary", onclick: save }, isAnswer ? words.save : words.send), create("button", { type: "button", onclick: close }, words.cancel)),
    );
    box.addEventListener("keydown", (event) => {
      const enter = event.key === "Enter" && !event.isComposing && (event.ctrlKey || event.metaKey || (!isAnswer && !event.shiftKey));
      if (!enter && event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      if (enter) save();
      else close();
    });
    box.addEventListener("input", () => ggufChat.grow(box));
    article.classList.add("editing");
    article.prepend(form);
    ggufChat.grow(box);
    box.focus();
    box.setSelectionRange(box.value.length, box.value.length);
  };

  /** Make a text box as high as its text, up to its style's max-height. */
  ggufChat.grow = (box) => {
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight}px`;
  };

  const noteOf = (list, item) => {
    const { words } = ggufChat;
    const box = create("input", { type: "text", maxlength: 2000, "aria-label": words.note, placeholder: words[`note_${item.opinion}`] });
    box.value = item.note;
    const save = () => list.trigger("note", { node: item.id, text: box.value });
    box.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) save();
      else if (event.key === "Escape") form.remove();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    const form = create(
      "div",
      { class: "note" },
      box,
      create("button", { type: "button", onclick: save }, words.note_save),
      create("button", { type: "button", onclick: () => form.remove() }, words.note_close),
    );
    return form;
  };

  /** Draw a message; `turn` is its number among the questions. */
  ggufChat.drawMessage = (list, item, turn) => {
    const { words } = ggufChat;
    const isAnswer = item.role === "assistant";
    const beginning = item.text.trim().replace(/\s+/g, " ").slice(0, 160);
    const label = `${ggufChat.fillIn(isAnswer ? words.reply : words.message, { number: turn })}: ${beginning}`;
    const article = create("article", { class: `message ${isAnswer ? "bot" : "user"}`, tabindex: -1, "aria-label": label, "data-id": item.id });
    const body = create("div", { class: "markdown" });
    article.list = list;
    article.item = item;
    if (item.thoughts !== null) article.append(thoughtsOf(item, false));
    ggufChat.fill(body, item.text);
    article.append(body, toolsOf(list, item, article));
    if (item.ask_note) article.append(noteOf(list, item));
    return article;
  };

  const setTools = (article, tabIndex) => article?.querySelectorAll(".tools button").forEach((button) => (button.tabIndex = tabIndex));
  document.addEventListener("focusin", ({ target }) => {
    const article = target.closest?.("#conversation .message[tabindex]");
    if (!article || article.querySelector(".tools button")?.tabIndex === 0) return;
    document.querySelectorAll('.tools button[tabindex="0"]').forEach((button) => (button.tabIndex = -1));
    setTools(article, 0); // only the tools of the message that has the focus are Tab stops
    article.list.tabStop(article);
  });

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    const { target, key } = event;
    const box = document.querySelector("#question textarea");
    const all = [...document.querySelectorAll("#conversation .message[tabindex]")];
    const at = all.indexOf(target);
    if (target === box && key === "ArrowUp" && !box.value && all.length) {
      all.at(-1).focus();
    } else if (at < 0) {
      return;
    } else if (key === "Escape") {
      box.focus();
    } else if (key === "Enter" || key === " ") {
      target.querySelector(".tools button")?.focus();
    } else if (key === "Delete" && !target.list.busy) {
      target.list.trigger("delete", { node: target.item.id });
    } else if (key === "ArrowLeft" || key === "ArrowRight") {
      target.querySelector(key === "ArrowLeft" ? ".earlier" : ".later")?.click();
    } else {
      const to = { ArrowUp: all[Math.max(0, at - 1)], ArrowDown: all[at + 1] ?? box, Home: all[0], End: all.at(-1) }[key];
      if (!to) return;
      to.focus();
    }
    event.preventDefault();
  });
})();
