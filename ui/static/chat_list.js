// The list of chats in the rail: its search, groups, keyboard and undo. ui/pages/history/chat_list.py has the server's
// half; chat_menus.js has the menu of a chat, palette.js the dialog of Ctrl+K. Titles and messages become text nodes only.
(() => {
  const UNDO_FOR = 10000, SEARCH_AFTER = 180, LIVE_EVERY = 3000, OPEN_WITHIN = 10000, MAX_TITLE = 60; // milliseconds, characters
  const OPEN_FOLDERS = "gguf-chat.folders";

  const { create: make, fillIn: fill, download: save } = window.ggufChat;
  // A text whose parts with odd numbers are marked.
  const marks = (parts) => parts.map((part, i) => (i % 2 ? make("mark", {}, part) : part));
  const storedFolders = () => {
    try {
      return (JSON.parse(localStorage.getItem(OPEN_FOLDERS)) ?? []).filter((name) => typeof name === "string").slice(0, 100);
    } catch {
      return []; // damaged, or storage is forbidden
    }
  };
  const storeFolders = (names) => {
    try {
      localStorage.setItem(OPEN_FOLDERS, JSON.stringify([...names].slice(-100)));
    } catch {} // full or forbidden: they stay open as long as the page
  };

  // Groups by date in the reader's time zone: today, yesterday, the last 7 days, months. Items come latest first.
  const byDate = (items, texts, language) => {
    const day = (ago) => {
      const date = new Date();
      return new Date(date.getFullYear(), date.getMonth(), date.getDate() - ago).getTime();
    };
    const limits = [[day(0), texts.today], [day(1), texts.yesterday], [day(7), texts.week]];
    const month = (date) => new Intl.DateTimeFormat(language, date.getFullYear() === new Date().getFullYear()
      ? { month: "long" } : { month: "long", year: "numeric" }).format(date);
    const groups = new Map();
    for (const item of items) {
      const time = item.updated * 1000;
      const name = limits.find(([since]) => time >= since)?.[1] ?? month(new Date(time));
      groups.set(name, [...(groups.get(name) ?? []), item]);
    }
    return [...groups];
  };

  // `open(id)` shows a chat on this page ("": a new one); `props.here` is false where the chat is another page.
  window.ggufChatList = (element, open, props, server, watch) => {
    let [texts, language, page] = [{}, "en", 200];
    let view = { sections: {}, folders: [], words: "" };
    let [current, words, stop, editing] = ["", "", "", null];
    let [opening, next, guard] = [null, null, 0]; // the chat that the page opens, the one after it, a timer
    let [asked, late, polling] = [0, false, 0]; // the number of requests, a drawing put off, a timer
    let chosen = null; // the ids chosen while several are
    let [error, groups] = ["", 0];
    const undos = []; // what can be brought back, the latest one last
    const limits = new Map([["", page]]), folders = new Set(storedFolders());

    const search = make("input", { type: "search", id: "chats-search", autocomplete: "off", spellcheck: "false", maxlength: 200 });
    const hint = make("kbd", { "aria-hidden": "true" }, /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘K" : "Ctrl K");
    const rows = make("div", { class: "chats-rows" });
    const bar = make("div", { class: "chats-bar" });
    const said = make("div", { class: "chats-said", role: "status" });
    element.classList.add("chats-frame");
    element.replaceChildren(make("div", { class: "chats-search" }, search, hint), rows, bar, said);

    const items = () => Object.values(view.sections).flatMap((section) => section.items);
    const item = (id) => items().find((one) => one.id === id);
    const shownLimits = () => Object.fromEntries(words ? [["", limits.get("")]] : [["", limits.get("")], ...[...folders].map((name) => [name, limits.get(name) ?? page])]);

    // Ask the server for a change, or for the list alone; show its view unless a later one is on the way.
    const ask = async (name, change = {}) => {
      const mine = ++asked;
      const answer = await server[`${name}_chats`]({ words, current, limits: shownLimits(), ...change }).catch(() => null);
      say(answer ? answer.error : texts.unreachable);
      if (answer?.view && mine === asked) take(answer.view);
      return answer;
    };
    const take = (next) => {
      const unknown = next.folder && !folders.has(next.folder) && next.folder !== view.folder;
      view = next;
      if (current && next.current === current && next.folder === null) current = ""; // it was deleted elsewhere
      draw();
      if (unknown && !words) toggle(next.folder, true); // the open chat is in it
      clearTimeout(polling);
      if (items().some((one) => one.live && !(props.here && one.id === current))) polling = setTimeout(() => ask("list"), LIVE_EVERY);
    };
    // Show an error, "" for none, and Undo for what was deleted.
    const say = (line) => {
      error = line || "";
      const last = undos.at(-1);
      said.replaceChildren(...[error, last && make("bdi", {}, last.line), last && make("button", { type: "button", class: "chats-undo", onclick: api.undo }, texts.undo)].filter(Boolean));
    };
    const section = (name) => (Object.hasOwn(view.sections, name) ? view.sections[name] : null); // not "constructor"

    // ---- drawing
    const draw = () => {
      if (editing !== null) return void (late = true); // a new title is being typed
      late = false;
      const [key, top] = [rows.contains(document.activeElement) && keyOf(document.activeElement), rows.scrollTop];
      near.disconnect();
      groups = 0;
      const empty = !items().length && !view.folders.length && make("p", {}, view.words ? texts.not_found : texts.none);
      rows.replaceChildren(...(empty ? [empty] : view.words ? group(null, section("")) : everything()));
      rows.scrollTop = top;
      rove(key && find(key) ? key : stop);
      if (key) find(stop)?.focus({ preventScroll: true });
      drawBar();
    };
    const everything = () => {
      const { items: all, more: left } = section("");
      const [pinned, others] = [all.filter((one) => one.pinned), all.filter((one) => !one.pinned)];
      const dated = byDate(others, texts, language).map(([name, inside]) => group(name, { items: inside, more: 0 }));
      return [
        ...(pinned.length ? group(texts.pinned, { items: pinned, more: 0 }) : []),
        ...view.folders.filter((one) => one.count).flatMap(folder),
        ...dated.flat(),
        ...(left ? [more("", left)] : []),
      ];
    };
    const group = (name, inside) => {
      const id = `chats-group-${groups++}`;
      const list = make("ul", name ? { "aria-labelledby": id } : { "aria-label": texts.label }, ...inside.items.map(row));
      return [name && make("div", { class: "chats-name", id }, name), list, inside.more > 0 && more("", inside.more)].filter(Boolean);
    };
    const folder = ({ name, count }) => {
      const isOpen = folders.has(name);
      const head = make("button", { type: "button", class: "chats-folder", "data-stop": `folder ${name}`, "data-folder": name, tabindex: -1, "aria-expanded": String(isOpen),
        onclick: () => toggle(name, !folders.has(name)) }, make("bdi", {}, name), make("span", { class: "chats-count" }, String(count)));
      const inside = isOpen && section(name);
      return inside ? [head, make("ul", { class: "chats-inside", "aria-label": name }, ...inside.items.map(row)), inside.more > 0 && more(name, inside.more)].filter(Boolean) : [head];
    };
    const row = (one) => {
      const title = make("bdi", { class: "chats-title" }, ...(one.marked ? marks(one.marked) : [one.title]));
      const line = [title, one.live && make("span", { class: "chats-live", role: "img", "aria-label": texts.live, title: texts.live })];
      const below = [view.words && one.folder && make("span", { class: "chats-in" }, one.folder), one.excerpt?.join("") && make("bdi", { class: "chats-excerpt" }, ...marks(one.excerpt))];
      const isCurrent = one.id === current;
      const common = { class: "chats-item", "data-stop": one.id, title: one.title };
      if (chosen) {
        const box = make("input", { type: "checkbox", tabindex: -1, "data-stop": one.id, onchange: () => choose(one.id) });
        box.checked = chosen.has(one.id);
        return make("li", { class: "chats-row" }, make("label", { class: "chats-item", title: one.title }, box, make("span", { class: "chats-words" }, ...line, ...below)));
      }
      const address = `${props.here ? "" : "./"}?chat=${encodeURIComponent(one.id)}`;
      const link = make("a", { ...common, href: address, tabindex: -1, "aria-current": isCurrent && "true", onclick: (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return; // another tab or window
        event.preventDefault();
        show(one.id);
      } }, ...line, ...below);
      const options = make("button", { type: "button", class: "chats-options", tabindex: -1, "aria-haspopup": "menu", "aria-label": fill(texts.options, { title: one.title }),
        onclick: (event) => menu(one, event.currentTarget) });
      return make("li", { class: isCurrent ? "chats-row chats-current" : "chats-row" }, link, options);
    };
    const more = (of, count) => {
      const button = make("button", { type: "button", class: "chats-more", "data-stop": `more ${of}`, tabindex: -1, onclick: () => {
        limits.set(of, (limits.get(of) ?? page) + page);
        ask("list");
      } }, fill(texts.more, { count: Math.min(count, page) }));
      near.observe(button);
      return button;
    };
    const near = new IntersectionObserver((entries) => { // the end of the list comes into sight
      for (const entry of entries) if (entry.isIntersecting && !near.unobserve(entry.target)) entry.target.click();
    }, { root: rows, rootMargin: "200px" });

    // ---- several at once
    const drawBar = () => {
      if (!chosen) return bar.replaceChildren();
      const ids = () => [...chosen];
      const button = (text, act, name = "") => make("button", { type: "button", class: name, disabled: !chosen.size && act !== leave, onclick: act }, text);
      const leave = () => select(null);
      bar.replaceChildren(
        make("span", { role: "status" }, fill(texts.selected, { count: chosen.size })),
        button(texts.done, leave),
        button(texts.move_here, () => api.move(ids())),
        button("Markdown", () => api.export(ids(), "markdown")),
        button("JSON", () => api.export(ids(), "json")),
        button(texts.delete, () => api.delete(ids()), "chats-delete"),
      );
    };
    const choose = (id) => {
      if (!chosen.delete(id)) chosen.add(id);
      drawBar();
    };
    const select = (ids) => {
      chosen = ids && new Set(ids);
      draw();
      find(stop)?.focus();
    };

    // ---- one Tab stop
    const stops = () => [...rows.querySelectorAll("[data-stop]")];
    const stopOf = (element) => element.closest("[data-stop]") ?? element.closest(".chats-row")?.querySelector("[data-stop]");
    const keyOf = (element) => stopOf(element)?.dataset.stop;
    const find = (key) => stops().find((one) => one.dataset.stop === key);
    const rove = (key) => {
      const all = stops();
      const next = all.find((one) => one.dataset.stop === key) ?? all.find((one) => one.dataset.stop === current) ?? all[0];
      for (const one of all) one.tabIndex = one === next ? 0 : -1;
      stop = next?.dataset.stop ?? "";
      return next;
    };
    const go = (key) => rove(key)?.focus();
    const neighbour = (id) => {
      const all = stops().map((one) => one.dataset.stop).filter(item), at = all.indexOf(id);
      return all[at + 1] ?? all[at - 1] ?? "";
    };
    rows.addEventListener("focusin", (event) => {
      const key = keyOf(event.target);
      if (key && key !== stop) rove(key);
    });
    rows.addEventListener("keydown", (event) => {
      const at = stopOf(event.target);
      if (!at || editing !== null || event.isComposing) return;
      const [all, id] = [stops(), at.dataset.stop], i = all.indexOf(at), one = item(id);
      const chord = event.ctrlKey || event.metaKey, step = { ArrowDown: i + 1, ArrowUp: i - 1, Home: 0, End: all.length - 1 }[event.key];
      if (step !== undefined && !chord && !event.altKey) {
        if (step < 0) search.focus();
        else if (all[step]) go(all[step].dataset.stop);
      } else if (chord && event.key.toLowerCase() === "z" && undos.length) api.undo();
      else if (chord && event.key.toLowerCase() === "a" && chosen) select(items().map((one) => one.id));
      else if (chord || event.altKey) return;
      else if (at.dataset.folder !== undefined && ["ArrowRight", "ArrowLeft"].includes(event.key)) toggle(at.dataset.folder, event.key === "ArrowRight");
      else if (chosen && event.key === "Escape") select(null);
      else if (!one) return;
      else if (event.key === "F2" && !chosen) rename(one);
      else if (event.key === "Delete") api.delete(chosen?.size ? [...chosen] : [id]);
      else if (!chosen && (event.key === "ContextMenu" || (event.key === "F10" && event.shiftKey) || event.key === "ArrowRight")) menu(one, at.parentElement.querySelector(".chats-options"));
      else if (!chosen && event.target.matches(".chats-options") && event.key === "ArrowLeft") at.focus();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    rows.addEventListener("contextmenu", (event) => {
      const one = !chosen && item(keyOf(event.target));
      if (!one || editing !== null || event.shiftKey) return;
      event.preventDefault();
      menu(one, event.target.closest(".chats-row").querySelector(".chats-options"));
    });

    // ---- what a chat's menu does
    const menu = (one, button) => window.ggufChatMenu(button, texts, one, {
      leave: () => go(one.id),
      rename: () => rename(one),
      pin: () => ask("pin", { ids: [one.id], pinned: !one.pinned }).then(() => go(one.id)),
      move: () => api.move([one.id]),
      markdown: () => api.export([one.id], "markdown"),
      json: () => api.export([one.id], "json"),
      select: () => select([one.id]),
      delete: () => api.delete([one.id]),
    });
    const rename = (one) => {
      const link = find(one.id);
      if (!link) return;
      editing = one.id;
      const input = make("input", { class: "chats-rename", "aria-label": texts.title, maxlength: MAX_TITLE, dir: "auto" });
      input.value = one.title;
      const end = (keep, stay) => {
        if (editing === null) return;
        editing = null;
        const title = input.value.trim();
        input.replaceWith(link);
        if (keep && title && title !== one.title) {
          [one.title, one.marked] = [title, undefined];
          draw();
          ask("rename", { ids: [one.id], name: title });
        } else if (late) draw();
        if (stay) go(one.id);
      };
      input.addEventListener("blur", () => end(true, false));
      input.addEventListener("keydown", (event) => {
        event.stopPropagation();
        if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
        event.preventDefault();
        end(event.key === "Enter", true);
      });
      link.replaceWith(input);
      input.focus();
      input.select();
    };
    const toggle = (name, isOpen) => {
      if (isOpen === folders.has(name)) return;
      if (isOpen) folders.add(name);
      else folders.delete(name);
      storeFolders(folders);
      draw();
      if (isOpen) ask("list");
    };
    const closeDrawer = () => {
      if (window.innerWidth < 768) document.querySelector("#history.open .toggle-button")?.click();
    };
    const show = (id) => {
      if (!props.here) return void (location.href = `./?chat=${encodeURIComponent(id)}`);
      mark(id);
      closeDrawer();
      turn(id);
    };
    const mark = (id) => {
      if (id === current) return;
      [current, stop] = [id, id || stop];
      draw();
      find(id)?.scrollIntoView({ block: "nearest" });
    };
    // Open a chat. One at a time: Gradio may finish events in another order than that of the clicks.
    const turn = (id) => {
      if (opening !== null) return void (next = id);
      opening = id;
      guard = setTimeout(() => api.drawn(), OPEN_WITHIN);
      open(id);
    };

    const api = {
      refresh: () => ask("list"),
      find: (text) => server.list_chats({ words: text, limits: { "": 20 } }).then((answer) => answer.view?.sections[""].items ?? [], () => []),
      show,
      texts: () => texts,
      // The page's open chat has changed: its first question has made one, unless one was opened here.
      setCurrent: (id) => {
        if (opening !== null) return;
        mark(id);
        if (id && !item(id)) ask("list");
      },
      // What was asked for is open; "" if it is gone.
      opened: (id) => {
        if (!opening || id !== "" || next !== null) return;
        mark("");
        ask("list").then(() => say(texts.gone));
      },
      // It is shown; meanwhile a question may have made a chat.
      drawn: (key) => {
        clearTimeout(guard);
        const [last, id] = [opening, next];
        [opening, next] = [null, null];
        if (id !== null && id !== last) turn(id);
        else if (key !== undefined) api.setCurrent(key);
      },
      delete: async (ids) => {
        const titles = ids.map((id) => item(id)?.title ?? "");
        const focused = rows.contains(document.activeElement) || bar.contains(document.activeElement), next = neighbour(ids.at(-1));
        for (const section of Object.values(view.sections)) section.items = section.items.filter((one) => !ids.includes(one.id));
        const reopen = ids.includes(current) ? current : "";
        const drafts = window.ggufChatDrafts?.take?.(ids) ?? [];
        [chosen, stop] = [null, next];
        offerUndo(ids, ids.length > 1 ? fill(texts.deleted_many, { count: ids.length }) : fill(texts.deleted, { title: titles[0] }), reopen, drafts);
        if (reopen && props.here) {
          current = "";
          turn("");
        }
        draw();
        if (focused) (rove(next) ?? search).focus();
        await ask("delete", { ids });
      },
      undo: async () => {
        const { ids, reopen, drafts, timer } = undos.pop();
        clearTimeout(timer);
        say("");
        window.ggufChatDrafts?.put?.(drafts);
        await ask("restore", { ids });
        if (reopen && props.here) show(reopen);
        go(ids[0]);
      },
      move: (ids) => window.ggufFolderDialog(texts, view.folders.map((one) => one.name), item(ids[0])?.folder ?? "", (typed) => {
        const name = typed.split(/\s+/).filter(Boolean).join(" "); // as the server does
        if (name) folders.add(name);
        storeFolders(folders);
        chosen = null;
        ask("move", { ids, name }).then(() => go(ids[0]));
      }, () => go(ids[0])),
      export: async (ids, kind) => {
        const answer = await ask("export", { ids, kind });
        if (answer?.file) save(answer.file);
      },
    };
    const offerUndo = (ids, line, reopen, drafts) => {
      const one = { ids, line, reopen, drafts };
      one.timer = setTimeout(() => {
        undos.splice(undos.indexOf(one), 1);
        say(error);
      }, UNDO_FOR);
      undos.push(one);
      say("");
    };

    // ---- search
    let typing = 0;
    search.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => {
        words = search.value;
        limits.set("", page);
        rows.scrollTop = 0;
        ask("list");
      }, SEARCH_AFTER);
    });
    search.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "ArrowDown") go(view.words ? stops()[0]?.dataset.stop : stop);
      else if (event.key === "Escape" && search.value) {
        search.value = "";
        search.dispatchEvent(new Event("input"));
      } else return;
      event.preventDefault();
      event.stopPropagation();
    });

    const begin = () => {
      if (!props.value?.view) return;
      ({ texts, language, page, current } = props.value);
      limits.set("", page);
      search.placeholder = texts.search;
      search.setAttribute("aria-label", texts.search);
      take(props.value.view);
      if (folders.size) ask("list"); // what was open before
    };
    watch("value", begin);
    begin();
    document.addEventListener("visibilitychange", () => document.hidden || ask("list"));
    window.ggufChats = api;
    window.ggufPalette?.(marks, api);
  };
})();
