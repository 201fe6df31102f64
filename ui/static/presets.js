// A user's own presets: names of settings and a system prompt, kept in this browser. ui/pages/presets.py binds its events.
const STORE = "gguf-chat.presets";
const [MOST, LONGEST] = [100, 60]; // presets; characters of a name
const part = (name) => element.querySelector(`.presets-${name}`);
const [list, name, said, file] = ["list", "name", "said", "file"].map(part);
const isPreset = (one) => typeof one?.name === "string" && one.name.trim() && one.name.length <= LONGEST && typeof one.values === "object" && one.values;
const read = () => {
  try {
    const kept = JSON.parse(localStorage.getItem(STORE));
    return Array.isArray(kept) ? kept.filter(isPreset) : [];
  } catch {
    return []; // damaged, or storage is forbidden
  }
};
const words = () => props.value ?? {};
const say = (text) => (said.textContent = text ?? "");
const write = (presets) => {
  try {
    localStorage.setItem(STORE, JSON.stringify(presets.slice(-MOST)));
  } catch {
    return say(words().not_kept); // full or forbidden
  }
  draw();
};
const draw = (chosen = "") => {
  const options = read().map((one) => new Option(one.name, one.name));
  list.replaceChildren(new Option(words().none ?? "", ""), ...options);
  list.value = chosen;
  part("remove").disabled = !chosen;
  part("export").disabled = !options.length;
};
const translate = () => {
  for (const [key, text] of Object.entries(words())) {
    const found = part(key);
    if (!found) continue;
    if (found.matches("input, select")) found.setAttribute("aria-label", text);
    else found.textContent = text;
    if (found === name) name.placeholder = text;
  }
  draw(list.value);
};
window.ggufChatPresets = {
  /** Return the values of the chosen preset. */
  chosen: () => read().find((one) => one.name === list.value)?.values ?? {},
  /** Keep values under the name in the box. */
  keep: (values) => {
    const title = name.value.trim();
    if (!title) return name.focus();
    write([...read().filter((one) => one.name !== title), { name: title, values }]);
    draw(title);
    name.value = "";
    say(window.ggufChat.fillIn(words().kept, { name: title }));
  },
};
list.addEventListener("change", () => {
  say("");
  draw(list.value);
  if (list.value) trigger("apply", {});
});
part("save").addEventListener("click", () => trigger("keep", {}));
name.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing) return;
  event.preventDefault();
  trigger("keep", {});
});
part("remove").addEventListener("click", () => {
  write(read().filter((one) => one.name !== list.value));
  draw();
});
part("export").addEventListener("click", () => {
  const content = JSON.stringify({ format: STORE, presets: read() }, null, 2);
  window.ggufChat.download({ name: "presets.json", type: "application/json", content });
});
part("import").addEventListener("click", () => file.click());
file.addEventListener("change", async () => {
  let found = [];
  try {
    const read = JSON.parse(await file.files[0].text());
    if (read?.format === STORE && Array.isArray(read.presets)) found = read.presets.filter(isPreset);
  } catch { /* no JSON: told below */ }
  file.value = "";
  if (!found.length) return say(words().not_read);
  const names = new Set(found.map((one) => one.name));
  write([...read().filter((one) => !names.has(one.name)), ...found]);
  say(window.ggufChat.fillIn(words().read, { count: found.length }));
});
watch("value", translate);
translate();
