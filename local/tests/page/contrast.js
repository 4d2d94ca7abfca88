// The texts of the page that are hard to read: under 4.5 to 1 (WCAG 2.2, 1.4.3).
(() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\d.]+/g).map((it) => Number(it) / 255).map((it) => (it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const low = [];
  const look = (name, of, on) => {
    const [dark, bright] = [light(of), light(on)].sort((one, other) => one - other);
    if ((bright + 0.05) / (dark + 0.05) < 4.5) low.push(name);
  };
  const box = document.querySelector("main .scroll");
  const ground = getComputedStyle(box).backgroundColor;
  for (const name of ["delivered", "covered", "queued", "quarantined", "gone"]) {
    const badge = box.appendChild(Object.assign(document.createElement("span"), { className: `badge ${name}` }));
    const { color, backgroundColor } = getComputedStyle(badge);
    look(name, color, backgroundColor);
    badge.remove();
  }
  const link = box.appendChild(Object.assign(document.createElement("a"), { href: "#x" }));
  look("link", getComputedStyle(link).color, ground);
  link.remove();
  look("muted", getComputedStyle(document.getElementById("updated")).color, getComputedStyle(document.body).backgroundColor);
  return low;
})()
