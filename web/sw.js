// Keeps the page for use offline, and adds the headers that threads need to every answer.

const CACHE = 'skt';
const PAGE = [
  './',
  'app.js',
  'counter.js',
  'icon.svg',
  'models.js',
  'models.json',
  'page.js',
  'pixels.js',
  'regions.js',
  'sources.js',
  'stage.js',
  'style.css',
  'table.js',
  'texts.js',
  'worker.js',
];
const HEADERS = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; " +
    "style-src 'self'; img-src 'self' blob:; media-src blob:; connect-src 'self'; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
};

self.addEventListener('install', (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(PAGE)));
});

self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));

self.addEventListener('message', (event) => {
  if (event.data === 'keep') event.waitUntil(keepAll());
});

/** Keeps the runtime and all models, and throws away those of earlier versions. */
async function keepAll() {
  const cache = await caches.open(CACHE);
  const { offline, runtime } = await (await answer(new Request(absolute('models.json')))).json();
  const current = [...offline, ...Object.values(runtime.webgpu)].map(absolute);
  for (const { url } of await cache.keys()) {
    if (isLarge(url) && !current.includes(url)) await cache.delete(url);
  }
  for (const url of offline.map(absolute)) if (!(await cache.match(url))) await cache.add(url);
  for (const client of await self.clients.matchAll()) client.postMessage('kept');
}

function absolute(path) {
  return new URL(path, self.registration.scope).href;
}

/** Says whether a file never changes under its address, which names a version or a hash. */
function isLarge(url) {
  return ['vendor/', 'models/'].some((folder) => url.startsWith(absolute(folder)));
}

self.addEventListener('fetch', (event) => {
  const { request } = event;
  if (request.method !== 'GET' || new URL(request.url).origin !== self.location.origin) return;
  event.respondWith(answer(request).then(withHeaders));
});

async function answer(request) {
  const cache = await caches.open(CACHE);
  const { origin, pathname } = new URL(request.url);
  const page = [absolute('./'), absolute('index.html')].includes(origin + pathname);
  const key = page ? absolute('./') : request.url; // whatever its options after the question mark
  const kept = await cache.match(key);
  if (kept && isLarge(key)) return kept;
  try {
    const fresh = await fetch(request.url, { cache: 'no-cache' });
    if (fresh.ok) await cache.put(key, fresh.clone()).catch(() => {}); // the disk may be full
    return fresh.ok || !kept ? fresh : kept;
  } catch {
    return kept ?? Response.error();
  }
}

function withHeaders(response) {
  if (response.type === 'error') return response;
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}
