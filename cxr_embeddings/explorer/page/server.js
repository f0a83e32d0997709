// Questions to the server, and what is said to it. Errors are sentences.

const KINDS = { float: Float32Array, grey: Uint16Array };

async function answer(path, options) {
  let found;
  try {
    found = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is it still running? If it was started anew, open its new address.");
  }
  if (found.ok) return found;
  const said = await found.json().catch(() => ({}));
  const error = new Error(found.status === 404 && said.error === "there is nothing here"
    ? "The server was started anew: open its new address." : said.error || `the server failed (${found.status})`);
  error.status = found.status;
  throw error;
}

const address = (name, query) => `ask/${name}?${new URLSearchParams(query)}`;

export async function ask(name, query = {}) {
  return (await answer(address(name, query))).json();
}

// {values, facts} of numbers: "float" is float32, "grey" is uint16.
export async function numbers(kind, name, query = {}, signal = undefined) {
  const found = await answer(address(name, query), { signal });
  return { values: new KINDS[kind](await found.arrayBuffer()), facts: JSON.parse(found.headers.get("Facts")) };
}

export async function say(name, body) {
  const headers = { "Content-Type": "application/json" };
  return (await answer(`say/${name}`, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

export const thumbnail = (row) => address("thumbnail", { row });
export const report = (name) => address("report", { name });
