// A web application as people write them: node's http, and prom-client for its
// metrics. `node app.js [PORT]` listens on 127.0.0.1 (0 or none: any free port)
// and prints "listening on PORT". Nothing in it knows of snowpit.
//
//   GET  /articles, GET /articles/:id, PUT /articles/:id (204), GET /slow (0.1 s)
//   GET  /metrics   what prom-client makes of it
"use strict";
const http = require("node:http");
const client = require("prom-client");

client.collectDefaultMetrics();

const duration = new client.Summary({
  name: "shop_http_request_duration_seconds",
  help: "Time from a request to its answer",
  labelNames: ["method", "path", "status_code"],
});
const active = new client.Gauge({
  name: "shop_http_active_requests",
  help: "Requests that run now",
  labelNames: ["method", "path"],
});

const routes = [
  ["GET", "/articles", /^\/articles$/, 200, 0],
  ["GET", "/articles/:id", /^\/articles\/[^/]+$/, 200, 0],
  ["PUT", "/articles/:id", /^\/articles\/[^/]+$/, 204, 0],
  ["GET", "/slow", /^\/slow$/, 200, 100],
];

const server = http.createServer(async (request, response) => {
  const path = request.url.split("?")[0];
  if (path === "/metrics") {
    response.setHeader("Content-Type", client.register.contentType);
    response.end(await client.register.metrics());
    return;
  }
  const found = routes.find(([method, , pattern]) => method === request.method && pattern.test(path));
  if (!found) {
    response.statusCode = 404;
    response.end();
    return;
  }
  const [method, route, , status, milliseconds] = found;
  const labels = { method, path: route };
  active.inc(labels);
  const began = process.hrtime.bigint();
  request.resume();
  await new Promise((resolve) => setTimeout(resolve, milliseconds));
  active.dec(labels);
  // Before the answer: who has it may look at once.
  duration.observe({ ...labels, status_code: status }, Number(process.hrtime.bigint() - began) / 1e9);
  response.statusCode = status;
  response.end();
});

server.listen(Number(process.argv[2] ?? 0), "127.0.0.1", () => {
  console.log(`listening on ${server.address().port}`);
});
