// A page that a small server on this machine answers: a model like the one that a notebook gives a widget, over fetch.
export function servedModel(values) {
  const listeners = new Map(), of = (event) => listeners.get(event) ?? listeners.set(event, new Set()).get(event);
  const tell = (event, ...told) => { for (const listener of [...of(event)]) listener(...told); };
  return {
    get: (name) => values[name],
    set: (name, value) => { if (values[name] !== value) { values[name] = value; tell(`change:${name}`); } },
    on: (event, listener) => of(event).add(listener),
    off: (event, listener) => of(event).delete(listener),
    save_changes: () => {},
    send: async (content) => {
      let answer = new TextEncoder().encode(JSON.stringify({ error: "the page's server has stopped: start spurious-rlvr view --serve again" })), kind = content.kind;
      try {
        const response = await fetch("ask", { method: "POST", body: JSON.stringify(content) });
        if (response.ok) { answer = await response.arrayBuffer(); if (kind === "hello") kind = "head"; }
      } catch { /* told below */ }
      tell("msg:custom", { kind, id: content.id }, [answer]);
    },
  };
}
