// A line through all charts at the time under the pointer.
const charts = [...document.querySelectorAll("svg[data-left]")];
const clock = document.getElementById("clock");
for (const chart of charts) {
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
    const { left, right, first, last } = numbers(chart);
    const share = (x - left) / (right - left);
    if (share < 0 || share > 1) return hide();
    const seconds = first + share * (last - first);
    for (const other of charts) place(other, seconds);
    clock.style.display = "block";
    clock.textContent = seconds.toFixed(2) + " s";
  });
  chart.addEventListener("pointerleave", hide);
}
function numbers(chart) {
  return Object.fromEntries(Object.entries(chart.dataset).map(([name, value]) => [name, Number(value)]));
}
function place(chart, seconds) {
  const { left, right, first, last } = numbers(chart);
  const line = chart.querySelector(".cross");
  const inside = seconds >= first && seconds <= last;
  const x = left + ((seconds - first) / (last - first)) * (right - left);
  line.setAttribute("x1", x);
  line.setAttribute("x2", x);
  line.style.visibility = inside ? "visible" : "hidden";
}
function hide() {
  clock.style.display = "none";
  for (const chart of charts) chart.querySelector(".cross").style.visibility = "hidden";
}
