// The table of all counts, the plot of a video's, and both as CSV.
import { describe } from './models.js';
import { $, draw, explain, make, number, t } from './page.js';

// As predict.py writes them.
export const COLUMNS = ['name', 'frame', 'seconds', 'count', 'unlikeness', 'notes'];
const made = new WeakMap(); // an entry's row, and what it says


/** Shows all entries, see app.js; `view` has the regions, the shown entry, the chosen model, and
 * `pick`, which is called for the entry that is to be shown. */
export function showTable(entries, view) {
  const timed = entries.some(({ seconds }) => seconds !== undefined);
  const heads = ['name', ...(timed ? ['time'] : []), 'count'];
  $('columns').replaceChildren(
    ...heads.map((key) => heading(t(key), key !== 'name')),
    ...view.regions.list.map(({ name }) => heading(name, true)),
    heading(t('notes')),
  );
  place($('rows'), entries.map((entry) => row(entry, timed, view)));
  showTimeline(entries);
}

/** Makes elements the children of another one; those in their place stay, pressed or focused. */
function place(parent, elements) {
  const wanted = new Set(elements);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  elements.forEach((element, i) => {
    if (parent.children[i] !== element) parent.insertBefore(element, parent.children[i] ?? null);
  });
}

const heading = (text, isNumber) =>
  make('th', { scope: 'col', textContent: text, ...(isNumber ? { class: 'number' } : {}) });
const cell = (text) => make('td', { class: 'number', textContent: text });

/** Returns an entry's row, a new one if it has something else to say. */
function row(entry, timed, { regions, shown, pick, model }) {
  const { name, seconds, state, reading, problem } = entry;
  const counts = state === 'counted' ? [reading.count, ...regions.count(reading)] : [];
  const time = seconds === undefined ? '' : t('seconds', { seconds: number(seconds, 1) });
  const words = {
    waiting: () => t('waiting'),
    working: () => t('working'),
    failed: () => explain(problem),
    counted: () => remarks(entry, model).join(', '),
  }[state]();
  const numbers = [null, ...regions.list].map((_, at) => counts[at] ?? null);
  const cells = numbers.map((count) => (count === null ? '' : number(count, 1)));
  const says = JSON.stringify([timed, time, state, words, cells]);
  if (made.get(entry)?.says === says) return choose(made.get(entry).element, entry === shown);
  const link = make('button', { class: 'link', textContent: name, onclick: () => pick(entry) });
  link.disabled = state === 'waiting' || state === 'working';
  const element = make(
    'tr',
    {},
    make('th', { scope: 'row' }, link),
    ...(timed ? [cell(time)] : []),
    ...cells.map(cell),
    make('td', { class: `words ${state}`, textContent: words }),
  );
  made.set(entry, { says, element });
  return choose(element, entry === shown);
}

function choose(element, isChosen) {
  element.classList.toggle('chosen', isChosen);
  if (isChosen) element.setAttribute('aria-current', 'true');
  else element.removeAttribute('aria-current');
  return element;
}

function remarks(entry, model) {
  const other = entry.model === model ? [] : [describe(entry.model)];
  return [...notesOf(entry).map((note) => t(`${note}Short`)), ...other];
}

/** Returns an entry's name, and the time of a frame. */
export function titleOf({ name, seconds }) {
  return seconds === undefined ? name : `${name}, ${t('seconds', { seconds: number(seconds, 1) })}`;
}

/** Returns the keys of what predict.py notes, too. */
export function notesOf({ reading }) {
  if (reading.flat) return ['flat'];
  return reading.unlikeness > 1 ? ['unlike'] : [];
}

/** Plots the counts of the last video. */
function showTimeline(entries) {
  const last = entries.findLast(({ video }) => video)?.video;
  const frames = entries.filter(({ video, reading }) => last && video === last && reading);
  $('over-time').hidden = frames.length < 2;
  if (frames.length < 2) return;
  const most = Math.max(...frames.map(({ reading }) => reading.count));
  const end = frames.at(-1).seconds;
  const points = frames.map(
    ({ seconds, reading }) => `${(600 * seconds) / end} ${85 - (80 * reading.count) / (most || 1)}`,
  );
  $('over-time-text').textContent = t('overTime', { most: number(most, 1) });
  $('timeline').replaceChildren(
    draw('line', { x1: 0, y1: 85, x2: 600, y2: 85 }),
    draw('path', { d: `M ${points.join(' L ')}` }),
  );
}

/** Returns the counts as predict.py writes them. */
export function writeCsv(entries, regions) {
  const rows = entries
    .filter(({ state }) => state === 'counted')
    .map((entry) => {
      const { reading, name, seconds } = entry;
      return [
        name,
        '', // a browser does not tell a frame's number
        seconds === undefined ? '' : seconds.toFixed(3),
        reading.count.toFixed(4),
        reading.unlikeness === null ? '' : reading.unlikeness.toFixed(3),
        notesOf(entry).join(' '),
        ...regions.count(reading).map((count) => (count === null ? '' : count.toFixed(4))),
      ];
    });
  const header = [...COLUMNS, ...regions.list.map(({ name }) => name)];
  const quote = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  return [header, ...rows].map((values) => `${values.map(quote).join(',')}\r\n`).join('');
}
