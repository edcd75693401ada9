// Takes the picture of README.md: two minutes with an outage in the middle. Needs chromium and the npm module
// playwright-core. Usage, in a directory where that module is installed:
//
//	go build -o dashboard github.com/limpet-go/limpet/examples/dashboard && node screenshot.mjs ./dashboard dashboard.png
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chromium } from "playwright-core";

const [program, file] = process.argv.slice(2);
const started = [];
async function start(...args) {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
  started.push(child);
  return { child, url: String(await once(child.stdout, "data")).trim() };
}
const seconds = n => new Promise(done => setTimeout(done, n * 1000));

try {
  const feed = await start("-serve", "127.0.0.1:0");
  const service = await start("-addr", "127.0.0.1:0", "-feed", feed.url);
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
  started.push({ kill: () => browser.close() });
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
  await page.goto(service.url);
  await seconds(70);
  feed.child.kill("SIGKILL");
  await seconds(8);
  await start("-serve", new URL(feed.url).host);
  await page.waitForSelector("#connection.live", { timeout: 60000 });
  await seconds(40);
  await page.screenshot({ path: file });
} finally {
  for (const child of started) await child.kill();
}
