// A page without a kernel: a model that holds its values in the page, in place of the one that a notebook gives a widget.
export function staticModel(values) {
  const listeners = new Map(), of = (event) => listeners.get(event) ?? listeners.set(event, new Set()).get(event);
  return {
    get: (name) => values[name],
    set: (name, value) => { if (values[name] !== value) { values[name] = value; for (const listener of [...of(`change:${name}`)]) listener(); } },
    on: (event, listener) => of(event).add(listener),
    off: (event, listener) => of(event).delete(listener),
    save_changes: () => {},
  };
}
