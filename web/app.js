// The page: what was chosen, what is shown, and the table of all counts.
import { Counter, CountingError } from './counter.js';
import { Models } from './models.js';
import { $, explain, make, number, offerLanguages, speak, t } from './page.js';
import { Regions } from './regions.js';
import { cameraFrames, videoFrames } from './sources.js';
import { describeDensity, drawSquare, showPicture } from './stage.js';
import { notesOf, showTable, titleOf, writeCsv } from './table.js';

const INTERVALS = [0.2, 0.5, 1, 2, 5, 10, 30]; // seconds between counted frames of a video
const SPOKEN_MS = 3000; // between two announcements of a video's or the camera's count

const options = new URLSearchParams(location.search);
const counter = new Counter({
  engine: options.get('engine') ?? 'auto',
  threads: Number(options.get('threads')) || 0,
});

/**
 * What was chosen, in that order: { name, image, video, seconds, state, reading, problem, model }.
 * `image` is the Blob to count, null for frames; `video` is the file of a video's frame.
 */
let entries = [];
let shown = null; // an entry, or the camera's last one
let square = null; // the densest one of the shown reading
let models;
let counting = false;
let stream = null; // the AbortController of the video or the camera
let videos = []; // files whose frames are still to be counted
let playing = false; // whether they are
let spokenAt = 0;

const regions = new Regions((isFinal) => {
  if (isFinal) showRows();
  if (shown?.reading) {
    regions.show(shown.reading);
    showMarks();
  }
});

// Counting

/** Adds files to what is to be counted. */
async function add(files) {
  const chosen = [...files].filter((file) => file.type.startsWith('video/'));
  const pictures = [...files].filter((file) => !chosen.includes(file));
  videos.push(...chosen);
  entries.push(...pictures.map((image) => ({ name: image.name, image, state: 'waiting' })));
  if (pictures.length && !counting) shown = null; // the first one that is counted
  await countAll();
  await countVideos();
}

async function countAll() {
  if (counting) return;
  counting = true;
  showRows();
  for (let entry; (entry = entries.find(({ state }) => state === 'waiting')); ) {
    if (!shown) show(entry);
    await count(entry, entry.image);
    if (shown === entry) show(entry);
    showRows();
  }
  counting = false;
  showRows();
}

/** Fills an entry with the reading of an image, or with the problem. */
async function count(entry, image) {
  entry.model = models.chosen;
  entry.state = 'working';
  showStatus();
  try {
    entry.reading = await counter.count(entry.model, image);
    entry.state = 'counted';
  } catch (problem) {
    Object.assign(entry, failure(problem));
  }
  if (image === entry.image && entry.model !== models.chosen) entry.state = 'waiting'; // again
  showStatus();
}

/** Counts the videos one by one; Stop, Clear and the camera leave out those that wait. */
async function countVideos() {
  if (playing) return; // what was added is counted, too
  playing = true;
  while (videos.length) await countVideo(videos.shift());
  playing = false;
}

async function countVideo(file) {
  entries = entries.filter(({ video }) => video !== file);
  await countFrames(
    (signal) => videoFrames(file, Number($('every').value), signal),
    (frame) => {
      const entry = { name: file.name, image: null, video: file, seconds: frame.seconds };
      entries.push(entry);
      return entry;
    },
    (problem) => {
      const entry = { name: file.name, image: null, video: file, ...failure(problem) };
      entries.push(entry);
      return entry;
    },
  );
}

async function useCamera() {
  videos = [];
  await countFrames(
    cameraFrames,
    ({ seconds }) => ({ name: t('live'), image: null, seconds, isLive: true }),
    (problem) => ({ name: t('live'), image: null, ...failure(problem) }),
  );
}

const failure = (problem) => ({ state: 'failed', problem });

/** Counts frames one by one until they end or Stop is pressed. */
async function countFrames(read, enter, complain) {
  stream?.abort();
  const mine = (stream = new AbortController());
  let last = null;
  showRows();
  try {
    for await (const frame of read(mine.signal)) {
      if (mine.signal.aborted) break;
      const entry = enter(frame);
      await count(entry, frame.image);
      if (mine.signal.aborted) break;
      if (!last || shown === last) show(entry); // unless another one was picked
      last = entry;
      showRows();
      if (entry.state === 'failed' && entry.isLive) break;
    }
  } catch (problem) {
    if (!mine.signal.aborted) show(complain(problem));
  }
  if (stream === mine) stream = null;
  showRows();
}

function endStream() {
  stream?.abort();
  stream = null;
}

function recount() {
  for (const entry of entries) if (entry.image) entry.state = 'waiting';
  countAll();
}

function clear() {
  videos = [];
  endStream();
  entries = [];
  shown = null;
  counter.close();
  $('rows').replaceChildren();
  $('result').hidden = true;
  $('start').classList.remove('small');
  showRows();
  $('choose').focus();
}

// Showing

function show(entry) {
  shown = entry;
  const { reading, problem, state, name } = entry;
  $('result').hidden = state === 'waiting' || state === 'working';
  $('start').classList.add('small');
  $('shown-name').textContent = titleOf(entry);
  $('failure').hidden = state !== 'failed';
  $('counted').hidden = document.querySelector('.stage').hidden = state !== 'counted';
  if (state === 'failed') {
    $('failure').textContent = explain(problem);
    $('spoken').textContent = `${name}: ${explain(problem)}`;
  } else if (state === 'counted') {
    showReading(entry, reading);
    showPicture(reading);
    announce(t('announce', { name, count: number(reading.count, 1) }), entry.seconds !== undefined);
  }
}

function showReading(entry, reading) {
  const count = number(reading.count, 1);
  $('count').textContent = count;
  $('picture').setAttribute('aria-label', t('pictureOf', { name: entry.name, count }));
  const notes = notesOf(entry).map((note) => t(note));
  $('note').hidden = !notes.length;
  $('note').textContent = notes.join(' ');
  $('example-note').hidden = !entry.example;
  $('example-note').textContent = entry.example ? t('exampleNote', entry.example) : '';
  const [[fromHeight, fromWidth], [height, width]] = [reading.size, reading.counted];
  const isShrunk = fromHeight !== height || fromWidth !== width;
  const why = entry.model.max_side ? 'sizeShrunk' : 'sizeTooMany';
  const sizes = Object.entries({ fromWidth, fromHeight, width, height });
  const values = Object.fromEntries(sizes.map(([key, value]) => [key, number(value)]));
  $('scale-note').textContent = t(isShrunk ? why : 'sizeSame', values);
  $('took').textContent = t('took', { ms: number(reading.ms), engine: engineName() });
  square = describeDensity(reading);
  regions.show(reading);
  showMarks();
}

function engineName() {
  if (counter.engine === 'webgpu') return t('webgpu');
  return t(counter.threads > 1 ? 'wasm' : 'wasmOne', { threads: counter.threads });
}

function announce(text, isFrame) {
  if (isFrame && performance.now() - spokenAt < SPOKEN_MS) return;
  spokenAt = performance.now();
  $('spoken').textContent = text;
}

function showMarks() {
  const shapes = regions.draw();
  if (square && $('show-square').checked) shapes.push(...drawSquare(square));
  $('marks').replaceChildren(...shapes);
}

function showStatus() {
  const done = entries.filter(({ state }) => state === 'counted' || state === 'failed').length;
  const isBusy = counting || stream;
  const first = !shown?.reading && !entries.some(({ reading }) => reading);
  const text = first ? t('loading') : t('progress', { done, all: entries.length });
  const status = isBusy && (first || entries.length > 1) ? text : '';
  if ($('status').textContent !== status) $('status').textContent = status; // it is read aloud
}

/** Brings the table, the buttons and the plot up to date. */
function showRows() {
  $('batch').hidden = entries.length < 2;
  $('stop').hidden = !stream && !(counting && entries.length > 1);
  $('keep').hidden = !stream || !shown?.isLive;
  $('every-line').hidden = !entries.some(({ video }) => video);
  showStatus();
  if (entries.length > 1) showTable(entries, { regions, shown, pick, model: models.chosen });
}

function pick(entry) {
  if (shown?.isLive) stream?.abort();
  spokenAt = -Infinity; // say this one at once
  show(entry);
  showRows();
  $('result').scrollIntoView({ block: 'nearest' });
}

function download(name, content, type) {
  const href = URL.createObjectURL(new Blob([content], { type }));
  make('a', { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 1000);
}

// The beginning

function listen() {
  $('choose').onclick = () => $('files').click();
  $('files').onchange = () => {
    add(Array.from($('files').files));
    $('files').value = ''; // so that the same file can be chosen again
  };
  $('camera').onclick = useCamera;
  $('example').onclick = showExample;
  $('stop').onclick = stop;
  $('keep').onclick = keepFrame;
  $('clear').onclick = clear;
  $('csv').onclick = () => download('counts.csv', writeCsv(entries, regions), 'text/csv');
  $('strength').oninput = () => ($('density').style.opacity = $('strength').value / 100);
  $('strength').oninput();
  $('show-square').onchange = showMarks;
  $('every').onchange = () => {
    const last = entries.findLast(({ video }) => video);
    if (!last) return;
    videos = [last.video, ...videos.filter((video) => video !== last.video)]; // again
    stream?.abort();
    countVideos();
  };
  document.onpaste = ({ clipboardData }) => clipboardData.files.length && add(clipboardData.files);
  document.ondragover = (event) => {
    event.preventDefault();
    document.body.classList.add('dragging');
  };
  document.ondragleave = () => document.body.classList.remove('dragging');
  document.ondrop = (event) => {
    event.preventDefault();
    document.body.classList.remove('dragging');
    add(event.dataTransfer.files);
  };
}

async function showExample() {
  const { file, heads } = counter.found.check;
  const entry = { name: t('exampleName'), image: null, example: { heads } };
  const response = await fetch(file).catch(() => null);
  if (response?.ok) Object.assign(entry, { image: await response.blob(), state: 'waiting' });
  else Object.assign(entry, failure(new CountingError({ key: 'exampleMissing', values: { file } })));
  entries.push(entry);
  shown = null;
  countAll();
  if (!entry.image) show(entry);
}

function stop() {
  videos = [];
  endStream();
  for (const entry of entries) {
    if (entry.state !== 'waiting') continue;
    if (entry.reading) entry.state = 'counted'; // by the model before
    else Object.assign(entry, failure(new CountingError({ key: 'stopped' })));
  }
  showRows();
}

function keepFrame() {
  if (!shown?.isLive || shown.state !== 'counted') return;
  entries.push({ ...shown, isLive: false });
  showRows();
}

function showTexts() {
  speak();
  const kept = $('every').value || '1';
  $('every').replaceChildren(
    ...INTERVALS.map((value) =>
      make('option', { value, textContent: t('everySeconds', { seconds: value }) }),
    ),
  );
  $('every').value = kept;
  const { version, runtime_version: runtime } = counter.found;
  $('source').textContent = t('source', { version, runtime });
  models.show();
  if (shown) show(shown);
  showRows();
}

/** Keeps the page for use offline, and reloads it once if that lets it use several threads. */
async function keepOffline() {
  const threaded = self.crossOriginIsolated;
  if (navigator.serviceWorker) {
    await navigator.serviceWorker.register('sw.js');
    const { active } = await navigator.serviceWorker.ready;
    const isUntouched = !entries.length && !shown && !stream;
    if (!threaded && isUntouched && !sessionStorage.getItem('reloaded')) {
      sessionStorage.setItem('reloaded', 'yes');
      location.reload();
      return;
    }
    navigator.serviceWorker.onmessage = ({ data }) => ($('kept').hidden = data !== 'kept');
    active.postMessage('keep');
  }
  $('one-thread').hidden = threaded;
}

async function begin() {
  speak();
  const needsServer = $('needs-server');
  try {
    const catalogue = await counter.catalogue();
    models = new Models(catalogue, counter, recount);
  } catch (problem) {
    needsServer.textContent = explain(problem);
    return;
  }
  needsServer.remove();
  for (const id of ['start', 'models', 'unknown', 'footer']) $(id).hidden = false;
  offerLanguages(showTexts);
  listen();
  showTexts();
  await keepOffline().catch(() => ($('one-thread').hidden = self.crossOriginIsolated));
}

begin();
