// What the page asks of the server that sent it.

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const PAGE = crypto.randomUUID(); // of this visit: a reloaded or duplicated page counts its questions from the start

async function answered(reply) {
  const text = await reply.text();
  let found = {};
  try { found = JSON.parse(text); } catch { found = { error: text }; }
  if (!reply.ok) throw new Refused(found.error || `the server answered ${reply.status}`, reply.status);
  return found;
}

async function asked(address, options) {
  let reply;
  try {
    reply = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("the server does not answer; start hela-store teach again", 0);
  }
  return answered(reply);
}

export const address = (path, about = {}) => `${path}?${new URLSearchParams(about)}`;

export const get = (path, about = {}) => asked(address(path, { page: PAGE, ...about }));

export const post = (path, body = {}, signal = undefined) => asked(path, {
  method: "POST", signal, headers: { "content-type": "application/json" }, body: JSON.stringify({ page: PAGE, ...body }),
});

export function picture(path, about) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Refused(`the picture of ${about.frame} cannot be read`, 0));
    image.src = address(path, about);
  });
}

export const leave = () => navigator.sendBeacon("leave", new Blob([JSON.stringify({ page: PAGE })], { type: "application/json" }));
