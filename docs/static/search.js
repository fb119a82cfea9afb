// Sphinx quotes from a found page around the stem of the word, and finds nothing where the stem is no part of the word:
// "entropi" for "entropy". Without the i it is.
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  const quote = Search.makeSearchSummary;
  Search.makeSearchSummary = (page, stems, anchor) =>
    quote(page, new Set([...stems].map((stem) => stem.replace(/i$/, ""))), anchor);
});
