package wiretest

import (
	"slices"
	"strings"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// newToken is the credential that the client sends on an open connection.
const newToken = "new-token-of-the-client"

// checkRefresh: a dialect with the trait Refresh sends a new credential, once for each OpAuth, and
// reports what the server says of credentials. An error of Encode does not repeat the credential.
func checkRefresh(s *Subject, r *report) {
	if !s.Dialect.Traits().Refresh {
		r.skip("the trait Refresh is not set")
		return
	}
	k := s.usual(r)
	if k == nil {
		return
	}
	for _, e := range []wire.Event{{Kind: wire.EventAuth, Expires: time.Minute}, {Kind: wire.EventAuth, Wanted: true}} {
		from := len(k.events)
		switch said, err := k.say(e); {
		case err != nil:
			r.add("the server speaks of a credential, %s: %v", snapshot(e), err)
		case said && !slices.ContainsFunc(k.events[from:], func(got wire.Event) bool {
			return got.Kind == wire.EventAuth && got.Code == 0 && got.Wanted == e.Wanted && (e.Wanted || got.Expires == e.Expires)
		}):
			r.add("the server speaks of a credential, and Decode reports no such event: %s", snapshot(e))
		}
	}
	var out wire.Frames
	if err := k.codec.Encode([]wire.Op{{Kind: wire.OpAuth, Token: newToken}}, &out); err != nil {
		r.add("the trait Refresh is set, and Encode refuses an OpAuth: %v", err)
		return
	}
	if len(out.List) == 0 {
		r.add("the trait Refresh is set, and Encode makes no frame of an OpAuth")
	}
	read := 0
	for _, f := range out.List {
		requests, err := k.peer.Decode(f)
		if err != nil {
			r.add("the peer cannot read the frame of an OpAuth, %q: %v", cut(f.Data), err)
		}
		for _, q := range requests {
			if q.Kind == wire.OpAuth && q.Token == newToken {
				read++
			}
		}
	}
	if len(out.List) > 0 && read != 1 {
		r.add("the client sends one credential by OpAuth, and the peer reads it %d times: want 1 Request with that Kind and Token", read)
	}
	for _, token := range []string{"\xff" + newToken, "\x00\n" + newToken, strings.Repeat(newToken, 4000)} {
		out.Reset()
		if err := k.codec.Encode([]wire.Op{{Kind: wire.OpAuth, Token: token}}, &out); err != nil && strings.Contains(err.Error(), newToken) {
			r.add("the error of Encode repeats the credential of an OpAuth: %.100q", err.Error())
		}
	}
}
