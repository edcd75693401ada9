package main

// ofTransports: what the caller's transport does to an upgrade.
var ofTransports = []mutation{
	{
		name:    "transport: a body that is replaced is the server's fault",
		file:    "internal/socket/dial.go",
		search:  "case !direct && switches(resp.Header):",
		replace: "case false:",
		test:    "-run ^TestTransportSpoilsThe101$ ./test",
	},
	{
		name:    "transport: one that reads the 101 hangs for ever",
		file:    "internal/socket/requests.go",
		search:  "late := t.sockets != nil &&",
		replace: "late := false &&",
		test:    "-run ^TestTransportSpoilsThe101$ ./test",
	},
	{
		name:    "transport: one that reads the 101 is not named",
		file:    "internal/socket/requests.go",
		search:  "case t.sockets != nil && t.answered && errors.Is(err, net.ErrClosed):",
		replace: "case false:",
		test:    "-run ^TestTransportSpoilsThe101$ ./test",
	},
	{
		name:    "transport: names in lower case are not known",
		file:    "internal/socket/dial.go",
		search:  "resp.Header = CanonicalHeader(resp.Header)",
		replace: "",
		test:    "-run ^TestTransportSpoilsThe101$ ./test",
	},
	{
		name:    "transport: HTTP/2 that TLS agrees on is not named",
		file:    "internal/socket/requests.go",
		search:  "return ok && layer.ConnectionState().NegotiatedProtocol == \"h2\"",
		replace: "return ok && layer == nil",
		test:    "-run ^TestTransportSpeaksHTTP2$ ./test",
	},
	{
		name:    "transport: its timeout is not named",
		file:    "internal/socket/dial.go",
		search:  "if client.Timeout > 0 && errors.Is",
		replace: "if client.Timeout < 0 && errors.Is",
		test:    "-run ^TestTimeoutOfTheHTTPClientIsNamed$ ./test",
	},
	{
		name:    "dial: an extension that was not offered is not named",
		file:    "internal/socket/dial.go",
		search:  "strings.Trim(offered, \", \") != \"\"",
		replace: "offered == \"?\"",
		test:    "-run ^TestFormsOfA101$ ./test",
	},
	{
		name:    "dial: a dialect's header is sent beside that of the options",
		file:    "dialer.go",
		search:  "\t\tw.Header = socket.CanonicalHeader(w.Header)\n",
		replace: "",
		test:    "-run ^TestHeaderOfTheDialectInAnySpelling$ ./test",
	},
}

// ofClosing: connections that are still being closed.
var ofClosing = []mutation{
	{
		name:    "close: an earlier connection holds up the end of the client",
		file:    "loop.go",
		search:  "\t\ttime.AfterFunc(closeFrameTimeout, c.Kill)\n",
		replace: "\t\t_ = c\n",
		test:    "-run ^TestEndDuringAClose$ ./test",
	},
}

// ofMiddlewares: what stands in front of the server, and what it finds when it starts again.
var ofMiddlewares = []mutation{
	{
		name:    "middleware: a deadline of Hijack stays",
		file:    "server/conn.go",
		search:  "conn.SetDeadline(time.Time{})",
		replace: "",
		test:    "-run ^TestHijackOfAMiddleware$ ./server",
	},
	{
		name:    "middleware: a panic in Hijack leaves the connection open",
		file:    "server/conn.go",
		search:  "if !upgraded && h.raw != nil {",
		replace: "if !upgraded && h.raw != nil && h.stall < 0 {",
		test:    "-run ^TestHijackOfAMiddleware$ ./server",
	},
	{
		name:    "middleware: the 101 has the headers of a body",
		file:    "server/conn.go",
		search:  "\t\t\twithout[name] = true\n",
		replace: "",
		test:    "-run ^TestHeadersOfAMiddleware$ ./server",
	},
	{
		name:    "middleware: the 101 says close in another spelling",
		file:    "server/conn.go",
		search:  "without[name] = name != canonical",
		replace: "without[name] = false",
		test:    "-run ^TestHeadersOfAMiddleware$ ./server",
	},
	{
		name:    "server: an Upgrade of several is refused",
		file:    "server/server.go",
		search:  "if !plain && !hasToken(r.Header.Values(\"Upgrade\"), \"websocket\") {",
		replace: "if !plain && r.Header.Get(\"Upgrade\") != \"websocket\" {",
		test:    "-run ^TestHeadersOfAMiddleware$ ./server",
	},
	{
		name:    "server: a dot makes another host",
		file:    "server/gate.go",
		search:  "strings.TrimSuffix(strings.Trim(name, \"[]\"), \".\")",
		replace: "strings.Trim(name, \"[]\")",
		test:    "-run ^TestHostAndOrigin$ ./server",
	},
	{
		name:    "ids: an entry without a time is old",
		file:    "server/ids.go",
		search:  "if entry.Time.IsZero() {",
		replace: "if false {",
		test:    "-run ^TestRestartOnALogWithoutTimes$ ./server",
	},
	{
		name:    "resume: no tag is the base of a log that has none",
		file:    "server/subscription.go",
		search:  "case q.O == 0 || len(q.Tag) > 0 && bytes.Equal",
		replace: "case q.O == 0 || bytes.Equal",
		test:    "-run ^TestRestartWithAnOlderLog$ ./test",
	},
	{
		name:    "ids: an entry is from the future",
		file:    "server/ids.go",
		search:  "return min(entry.Time.Sub(s.start), 0)",
		replace: "return entry.Time.Sub(s.start)",
		test:    "-run ^TestRestartOnALogWithoutTimes$ ./server",
	},
}
