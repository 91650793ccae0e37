"use strict";
// What the scripts of all pages share. Everything that a user named is set as text, never as HTML.
const $ = (id) => document.getElementById(id);
const MINUS = "\u2212";

// ---- numbers as text ----------------------------------------------------------------------------------------------

const signed = (text) => (text.startsWith("-") ? MINUS + text.slice(1) : `+${text}`);
// With four digits, or as many as rounding leaves certain, and at most so many places.
function number(value, off, most = 6) {
  if (value && Math.abs(value) < 1e-4) return signed(value.toExponential(1));
  const certain = off > 0 ? Math.ceil(-Math.log10(off)) : 4;
  const wanted = 3 - Math.floor(Math.log10(Math.abs(value) || 1));
  return signed(value.toFixed(Math.max(0, Math.min(most, certain, wanted))));
}
// Rounded up to one digit.
function limit(off) {
  if (!(off > 0)) return "±0";
  const unit = 10 ** Math.floor(Math.log10(off));
  return `±${Number((Math.ceil(off / unit - 1e-9) * unit).toPrecision(1))}`;
}
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
const plain = (value) => Number(value.toPrecision(2)).toString();
