// usage: node jsonrpc.mjs [PORT [front]]   Ganache, an Ethereum node for tests: it makes a block when it is asked to. With
// front, a WebSocket server before it wants the header "Authorization: Bearer good", and forwards every message.
import ganache from "ganache";
import WebSocket, { WebSocketServer } from "ws";

const [port, front] = process.argv.slice(2);
const server = ganache.server({
	logging: { quiet: true },
	miner: { instamine: "strict" },
	wallet: { totalAccounts: 1, deterministic: true },
});
await server.listen(front ? 0 : Number(port ?? 0), "127.0.0.1");
if (front) {
	const wss = new WebSocketServer({
		port: Number(port), host: "127.0.0.1",
		verifyClient: (info, done) => done(info.req.headers.authorization === "Bearer good", 401),
	});
	wss.on("connection", (near) => {
		const far = new WebSocket("ws://127.0.0.1:" + server.address().port), early = [];
		near.on("message", (data) => { far.readyState === 1 ? far.send(String(data)) : early.push(String(data)); });
		far.on("open", () => { for (const text of early) far.send(text); });
		far.on("message", (data) => near.send(String(data)));
		for (const [one, other] of [[near, far], [far, near]]) { one.on("close", () => other.close()); one.on("error", () => other.close()); }
	});
	wss.on("listening", () => console.log("listening " + wss.address().port));
} else {
	console.log("listening " + server.address().port);
}
