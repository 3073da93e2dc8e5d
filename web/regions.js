// Regions of the picture: drawn by dragging or added and moved by keys, each with its count.
import { $, draw, make, number, t } from './page.js';
import { countRegion, regionWeights } from './pixels.js';
import { COLUMNS } from './table.js';

const STEP = 0.01; // of the picture's sides, by which a key moves a region
const GROWTH = 1.1; // by which a key changes its size
const SHORTEST = 0.01; // of a side: a shorter drag is a click
const NEAR = 0.004; // between corners of a free outline

const MOVES = {
  ArrowLeft: [-STEP, 0],
  ArrowRight: [STEP, 0],
  ArrowUp: [0, -STEP],
  ArrowDown: [0, STEP],
};

/** The list of regions; `changed(isFinal)` is called after each change, also while dragging.
 * A region that moves gets new corners; the old ones never change. */
export class Regions {
  list = []; // { name, corners: [[x, y], ...] in parts of the sides }
  chosen = null;
  #number = 0;
  #shown = null; // the reading whose counts are shown
  #listed = []; // what the list of regions on the page says
  #counts = new WeakMap(); // of a reading's outlines: a video has many readings
  #weights = new WeakMap(); // of an outline's cells, with the size that they are for
  #changed;

  constructor(changed) {
    this.#changed = changed;
    $('add-region').onclick = () => this.#addCentred();
    $('frame').onpointerdown = (event) => this.#drag(event);
  }

  /** Returns the regions' counts for a reading; null where one encloses nothing. */
  count(reading) {
    if (!this.#counts.has(reading)) this.#counts.set(reading, new WeakMap());
    const counts = this.#counts.get(reading);
    return this.list.map(({ corners }) => {
      if (!counts.has(corners)) {
        counts.set(corners, countRegion(reading.density, this.#weigh(corners, reading.counted)));
      }
      return counts.get(corners);
    });
  }

  #weigh(corners, size) {
    const known = this.#weights.get(corners);
    if (known?.size.join() === size.join()) return known.weighed;
    const weighed = regionWeights(size, corners);
    this.#weights.set(corners, { size, weighed });
    return weighed;
  }

  /** Shows the list with the counts of a reading. */
  show(reading) {
    this.#shown = reading;
    const focused = document.activeElement?.dataset.control;
    const counts = this.count(reading);
    // While a name is typed, only the counts may change.
    const listed = [t('move'), ...this.list.flatMap((region) => [region, region.name])];
    if (listed.length !== this.#listed.length || listed.some((x, i) => x !== this.#listed[i])) {
      $('regions').replaceChildren(...this.list.map((region, i) => this.#item(region, i)));
      if (focused) $('regions').querySelector(`[data-control="${focused}"]`)?.focus();
      this.#listed = listed;
    }
    $('regions').querySelectorAll('output').forEach((output, i) => {
      output.textContent = words(counts[i]);
    });
    $('labels').replaceChildren(
      ...this.list.map((region, i) => {
        const label = make('span', { textContent: `${region.name}: ${words(counts[i])}` });
        const { x, y } = centre(region.corners);
        label.style.left = `${100 * x}%`;
        label.style.top = `${100 * y}%`;
        return label;
      }),
    );
  }

  /** Returns the regions as shapes for the picture. */
  draw() {
    return this.list.flatMap((region) => {
      const points = region.corners.map((corner) => corner.join()).join(' ');
      const chosen = region === this.chosen ? ' chosen' : '';
      return [
        draw('polygon', { class: 'marks-shadow', points }),
        draw('polygon', { class: `marks-outline${chosen}`, points }),
      ];
    });
  }

  #item(region, i) {
    const { name } = region;
    const input = make('input', {
      type: 'text',
      value: name,
      'aria-label': t('regionName', { name }),
      'data-control': `name ${i}`,
      onchange: () => this.#rename(region, input.value),
    });
    const move = make('button', {
      textContent: t('move'),
      'aria-label': t('moveRegion', { name }),
      'aria-describedby': 'regions-help',
      'data-control': `move ${i}`,
      onfocus: () => this.#choose(region),
      onkeydown: (event) => this.#key(event, region),
    });
    const remove = make('button', {
      textContent: '×',
      'aria-label': t('removeRegion', { name }),
      onclick: () => this.#remove(region),
    });
    return make('li', {}, input, make('output'), move, remove);
  }

  #choose(region) {
    if (this.chosen === region) return;
    this.chosen = region;
    this.#changed(false);
  }

  #rename(region, text) {
    const name = text.trim().replace(/\s+/g, ' ');
    if (name && !this.#isTaken(name, region)) region.name = name;
    this.#listed = []; // a name that was refused is put back
    this.#changed(true);
  }

  #isTaken(name, self) {
    const others = this.list.filter((other) => other !== self).map((other) => other.name);
    return [...COLUMNS, ...others].includes(name);
  }

  #remove(region) {
    this.list = this.list.filter((other) => other !== region);
    this.#changed(true);
    $('add-region').focus();
  }

  #add(corners) {
    let name;
    do name = t('regionDefault', { number: ++this.#number });
    while (this.#isTaken(name));
    const region = { name, corners };
    this.list.push(region);
    this.chosen = region;
    return region;
  }

  #addCentred() {
    this.#add(rectangle([0.35, 0.35], [0.65, 0.65]));
    this.#changed(true);
    $('regions').querySelector('li:last-child [data-control^="move"]').focus();
  }

  #key(event, region) {
    if (event.ctrlKey || event.altKey || event.metaKey) return; // the browser's
    const move = MOVES[event.key];
    if (move) region.corners = moved(region.corners, move);
    else if ('+='.includes(event.key)) region.corners = grown(region.corners, GROWTH);
    else if ('-−'.includes(event.key)) region.corners = grown(region.corners, 1 / GROWTH);
    else if (event.key !== 'Delete') return;
    event.preventDefault();
    if (event.key === 'Delete') {
      this.#remove(region);
      return;
    }
    this.#changed(true);
    const count = this.#shown ? words(this.count(this.#shown)[this.list.indexOf(region)]) : '';
    $('spoken').textContent = t('regionCount', { name: region.name, count });
  }

  /** Moves the region under the pointer, or draws a new one. */
  #drag(event) {
    if (event.button !== 0) return;
    const frame = $('frame');
    const box = frame.getBoundingClientRect();
    const at = ({ clientX, clientY }) => [
      clip((clientX - box.left) / box.width),
      clip((clientY - box.top) / box.height),
    ];
    const start = at(event);
    const held = this.list.findLast(({ corners }) => encloses(corners, start));
    const before = held?.corners;
    const isFree = $('shape').value === 'outline';
    let drawn = null;
    const path = [start];
    if (held) this.#choose(held);
    frame.setPointerCapture(event.pointerId);
    frame.onpointermove = (moving) => {
      const point = at(moving);
      if (held) {
        held.corners = moved(before, [point[0] - start[0], point[1] - start[1]]);
      } else {
        if (distance(path.at(-1), point) > NEAR) path.push(point);
        if (!drawn && distance(start, point) < SHORTEST) return;
        const corners = isFree ? [...path] : rectangle(start, point);
        if (drawn) drawn.corners = corners;
        else drawn = this.#add(corners);
      }
      this.#changed(false);
    };
    frame.onpointerup = frame.onpointercancel = ({ type }) => {
      frame.onpointermove = frame.onpointerup = frame.onpointercancel = null;
      const isScrolled = type === 'pointercancel'; // a finger moved the page
      if (held && isScrolled) held.corners = before;
      const isNone = drawn && (isScrolled || isTiny(drawn.corners));
      if (isNone) this.list = this.list.filter((one) => one !== drawn);
      this.#changed(true);
    };
  }
}

const clip = (value) => Math.min(Math.max(value, 0), 1);
const distance = ([x1, y1], [x2, y2]) => Math.max(Math.abs(x1 - x2), Math.abs(y1 - y2));
const words = (count) => (count === null ? t('regionEmpty') : number(count, 1));

function rectangle([x1, y1], [x2, y2]) {
  const [left, right] = [Math.min(x1, x2), Math.max(x1, x2)];
  const [top, bottom] = [Math.min(y1, y2), Math.max(y1, y2)];
  return [[left, top], [right, top], [right, bottom], [left, bottom]];
}

function bounds(corners) {
  const [xs, ys] = [0, 1].map((axis) => corners.map((corner) => corner[axis]));
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

function centre(corners) {
  const [left, top, right, bottom] = bounds(corners);
  return { x: (left + right) / 2, y: (top + bottom) / 2 };
}

function isTiny(corners) {
  const [left, top, right, bottom] = bounds(corners);
  return corners.length < 3 || right - left < SHORTEST || bottom - top < SHORTEST;
}

/** Returns corners moved as far as the picture's border allows. */
function moved(corners, [dx, dy]) {
  const [left, top, right, bottom] = bounds(corners);
  const [x, y] = [Math.min(Math.max(dx, -left), 1 - right), Math.min(Math.max(dy, -top), 1 - bottom)];
  return corners.map((corner) => [corner[0] + x, corner[1] + y]);
}

function grown(corners, factor) {
  const { x, y } = centre(corners);
  const larger = corners.map((corner) => [
    clip(x + factor * (corner[0] - x)),
    clip(y + factor * (corner[1] - y)),
  ]);
  return isTiny(larger) ? corners : larger;
}

/** Says whether a point lies in a polygon, by the even-odd rule. */
function encloses(corners, [x, y]) {
  return corners.reduce((inside, [x1, y1], i) => {
    const [x2, y2] = corners[(i + 1) % corners.length];
    const crosses = y1 > y !== y2 > y && x < x1 + ((y - y1) / (y2 - y1)) * (x2 - x1);
    return crosses ? !inside : inside;
  }, false);
}
