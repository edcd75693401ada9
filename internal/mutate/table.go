package main

import "slices"

// table has, for each guard of the repository, at least one mutation that it must catch. To add
// one, break the guarded code by hand, see the test fail, and write down what was changed. The
// search text should be whole statements, so that an unrelated edit does not match it by accident.
// Entries are listed by guard: the rules of the repository in table_repo.go, the oracle in
// table_oracle.go, the wire protocol in table_wire.go, the client in table_client.go, the server in
// table_server.go, frames and sockets in table_frame.go, the dial in table_dial.go, streams in
// table_stream.go, numbers and slow links in table_bounds.go, what a server
// allows one connection in table_limits.go, dialects that route by name in
// table_feed.go, the answers of a feed in table_answers.go, what ends a client and which failure decides in table_end.go, single statements
// that keep state in table_loop.go, what a dialect owes the client in table_seam.go, what consumers and
// publishers get in table_consume.go, stores of positions in table_cursor.go, messages that are too big in table_readlimit.go, credentials and Options.Verdict in table_credentials.go, new ones on an open connection in table_refresh.go, those of unknown size in table_send_stream.go, redirects and what lies between client and server in table_paths.go, the next connection before the last one ends in table_rotation.go, servers without a protocol in table_raw.go, the conformance
// suite in table_wiretest.go, the rows of docs/reconnect.md in table_reconnect.go, HELLO in the upgrade request in table_early.go, topics that several share in table_sharing.go, outboxes in table_outbox.go, the store of a server in files in table_filestore.go, the files that both share in table_segment.go, that on JetStream in table_jetstream.go, that in Redis in table_redis.go, the program gateway in table_gateway.go, what is published with one in table_durable.go, messages that expire in table_expiry.go, calls in table_calls.go, how the server reads its log for all connections in table_fanout.go, and the other dialects each in a file of its name.
var table = slices.Concat(ofRepo, ofOracle, ofWire, ofClient, ofServer, ofStore, ofFrame, ofDial, ofTransports, ofMiddlewares, ofClosing, ofStream, ofBounds, ofLimits, ofPace, ofFeed, ofAnswers, ofEnd, ofLoop, ofLiveness, ofSeam, ofMeasure, ofConsume, ofCursor, ofMemory, ofLend, ofEndpoints, ofReadLimit, ofSendStream, ofRaw, ofCredentials, ofRefresh, ofMeeting, ofPaths, ofRotation,
	ofEarly, ofWiretest, ofGraphQLWS, ofJSONRPC, ofSocketIO, ofStomp, ofFallback, ofReconnect, ofSharing, ofOutbox, ofDurable, ofExpiry, ofCalls, ofFileStore, ofSegment, ofJetStream, ofRedis, ofGateway, ofFanout)
