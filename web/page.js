// The page's elements, its language, and numbers as that language writes them.
import { LANGUAGES, TEXTS, say } from './texts.js';

const SVG = 'http://www.w3.org/2000/svg';

export const $ = (id) => document.getElementById(id);

let language = navigator.languages.find((name) => /^(en|zh)/.test(name))?.slice(0, 2) ?? 'en';

/** Returns a text in the page's language. */
export const t = (key, values) => say(language, key, values);

/** Returns a number with so many decimals. */
export const number = (value, decimals = 0) =>
  value.toLocaleString(language, { minimumFractionDigits: decimals, maximumFractionDigits: decimals });

/** Returns a new element with properties; `class`, `aria-` and `data-` are attributes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (/^(class|aria-|data-|scope)/.test(name)) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Returns a new SVG element with attributes. */
export function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Fills the page with the texts of a language, the present one if none is given. */
export function speak(wanted = language) {
  language = wanted;
  document.documentElement.lang = language === 'zh' ? 'zh-Hans' : language;
  document.title = t('title');
  for (const element of document.querySelectorAll('[data-text]')) {
    element.textContent = t(element.dataset.text);
  }
}

/** Fills the choice of languages, and calls `changed` after each choice. */
export function offerLanguages(changed) {
  const select = $('language');
  for (const [value, name] of Object.entries(LANGUAGES)) {
    select.append(make('option', { value, textContent: name, lang: value }));
  }
  select.value = language;
  select.onchange = () => {
    speak(select.value);
    changed();
  };
}

/** Returns a CountingError in words; of any other error, its message. */
export function explain(error) {
  const known = error.key in TEXTS.en;
  return known ? t(error.key, error.values) : t('unexpected', { reason: error.message });
}
