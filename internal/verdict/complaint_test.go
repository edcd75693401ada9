package verdict

import (
	"slices"
	"testing"
)

// The texts of servers, and what they complain about.
func TestComplaints(t *testing.T) {
	for want, texts := range map[Complaint][]string{
		SentMuch: {
			"Too many requests",                        // Binance, with close code 1008
			"too many requests",                        // WhiteBIT, error 7
			"Rate limit exceeded, retry in 5 seconds.", // BitMEX, status 429
			"Exceeded msg rate",                        // Kraken
			"Requests too frequent",                    // OKX
			"exceed max permits per second",            // KuCoin, error 509
			"Request rate limit exceeded.",             // Infoway, error 429
			"rate-limited: slow down",                  // Nostr relays
			"Rate limited.",                            // Discord, with close code 4008
			"rate_limited",                             // limpet.v1, 4201
			"Too many requests from your IP, retry in 10 s",
			"RATE_LIMIT_EXCEEDED", "message flood", "You are sending messages too fast", "throttled", "Too many messages",
		},
		Other: {
			"pong came late", "Pong timeout", "invalid token", "auth_expired", "API key expired", "Not allowed", "heartbeat_timeout",
			"too many channels on this connection",
			"too many subscriptions",                                   // limpet.v1 servers
			"exceed max subscription count limitation of 100 per time", // KuCoin
			"exceed max session count limitation of 50",                // KuCoin
			"Too many initialisation requests",                         // graphql-ws, 4429
			"Too many connections from your IP",
			"Connection rate limit exceeded", "login rate limit", "new connections throttled",
			"Unknown topic", "slow consumer", "Invalid JSON",
		},
		Unclear: {"", "policy violation", "disconnected", "bye", "closed by server", "接続が切断されました"},
	} {
		for _, text := range texts {
			if got := ComplaintIn(text); got != want {
				t.Errorf("%q: %d, want %d", text, got, want)
			}
		}
	}
}

// A name that the client has given is no complaint of the server, and hides none.
func TestNamesAreNoComplaints(t *testing.T) {
	for text, want := range map[string]bool{
		"FLOOD-WARNINGS is unknown": false, "no topic eu/flood-warnings": false, "message flood": true,
		"flood-warnings: too many requests": true, "too many requests": true, "is unknown": false,
	} {
		if got := SaysSentMuch(text, slices.Values([]string{"", "requests", "eu/flood-warnings"})); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
