package stomp

import (
	"fmt"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// What the client does about each ERROR. The texts are those of RabbitMQ 3.10 and 4, of
// ActiveMQ and of Spring.
func TestVerdict(t *testing.T) {
	for _, row := range []struct {
		connected     bool
		message, body string
		code          uint16
		action        wire.Action
		class         string
	}{
		{false, "Bad CONNECT", "Access refused for user 'version'\n", CodeLogin, wire.ActionRefresh, "auth"},
		{false, "Bad CONNECT", "Virtual host '/nope' access denied", CodeLogin, wire.ActionRefresh, "auth"},
		{false, "java.lang.SecurityException: User name [x] or password is invalid.", "", CodeLogin, wire.ActionRefresh, "auth"},
		{false, "Version mismatch", "Supported versions are 1.0,1.1,1.2\n", CodeVersion, wire.ActionStop, "protocol"},
		{false, "Something", "else", CodeRefused, wire.ActionRetryNow, "rejected"},
		{true, "Credential expired", "The credential used to authenticate this connection has expired", CodeLogin, wire.ActionRefresh, "auth"},
		{true, "Unknown destination", "'/nonsense/px' is not a valid destination.", CodeNotFound, wire.ActionRetryNow, "rejected"},
		{true, "not_found", "NOT_FOUND - no exchange 'nope' in vhost '/'", CodeNotFound, wire.ActionRetryNow, "rejected"},
		{true, "access_refused", "ACCESS_REFUSED - access to queue 'q' refused", CodeForbidden, wire.ActionRetryNow, "rejected"},
		{true, "Bad command", "Could not interpret command", CodeRefused, wire.ActionRetryNow, "rejected"},
		{true, "not_found", "NOT_FOUND - no exchange 'credentials' in vhost '/'", CodeNotFound, wire.ActionRetryNow, "rejected"},
		{true, "Unknown destination", "'/n/authentication' is not a valid destination.", CodeNotFound, wire.ActionRetryNow, "rejected"},
		{true, "access_refused", "ACCESS_REFUSED - access to queue 'shutdown' in vhost '/' refused for user 'x'", CodeForbidden, wire.ActionRetryNow, "rejected"},
		{true, "User x is not authorized to read from: topic://credentials", "", CodeForbidden, wire.ActionRetryNow, "rejected"},
		{true, "not_found", "NOT_FOUND - home node 'rabbit@b' of durable queue 'q' in vhost '/' is down or inaccessible", CodeNotFound, wire.ActionRetryNow, "rejected"},
		{true, "Broker is shutting down", "", CodeClosing, wire.ActionBackOff, "network"},
		{false, "Bad CONNECT", "Access refused for user 'shutdown'\n", CodeLogin, wire.ActionRefresh, "auth"},
		{false, "User name [too many] or password is invalid.", "", CodeLogin, wire.ActionRefresh, "auth"},
		{false, "javax.naming.CommunicationException: ldap:389", "java.net.ConnectException: Connection refused", CodeClosing, wire.ActionBackOff, "network"},
		{false, "Access refused: connection limit (5) is reached", "", CodeClosing, wire.ActionBackOff, "network"},
		{true, "connection_forced", "broker forced connection closure with reason 'shutdown'", CodeClosing, wire.ActionBackOff, "network"},
	} {
		code := codeOf(row.message, row.body, row.connected)
		v := New(Options{}).Verdict(wire.Failure{Code: code, CloseCode: 1000}) // RabbitMQ closes with 1000, whatever the ERROR was
		if code != row.code || v.Action != row.action || v.Class != row.class {
			t.Errorf("%s: %d, %+v", row.message, code, v)
		}
	}
	for _, f := range []wire.Failure{ // the client's tables decide
		{Stage: wire.StageOpen, Code: 1000, CloseCode: 1000, Reason: "STOMP died"}, {Stage: wire.StageUpgrade, Status: 401}, {Code: 1008}, {},
	} {
		if v := New(Options{}).Verdict(f); v != (wire.Verdict{}) {
			t.Errorf("%+v: %+v", f, v)
		}
	}
}

// An ERROR refuses what it names, or what alone can be meant, and nothing else.
func TestBlame(t *testing.T) {
	const unknown = "ERROR|message:Unknown destination||'/n/x' is not a valid destination.|$"
	asked := []wire.Op{subscribeOp(1, "/queue/a"), subscribeOp(2, "/n/x"), publishOp(1, wire.Message{Topic: "/n/x"}), publishOp(2, wire.Message{Topic: "/queue/a"})}
	for _, row := range []struct {
		name string
		ops  []wire.Op
		text string
		want string
	}{
		{"by receipt-id, a subscription", asked, "ERROR|message:no|receipt-id:2||x$", "refused 2 code 400 retry 0s: no: x\nerror 400 fatal true: no: x"},
		{"by receipt-id, a message", asked, "ERROR|message:no|receipt-id:4||x$", "rejected 2 code 400\nerror 400 fatal true: no: x"},
		{"by a receipt-id that is not ours", asked, "ERROR|message:no|receipt-id:77||x$", "error 400 fatal true: no: x"},
		{"by destination", asked, unknown, "refused 2 code 404 retry 0s: Unknown destination: '/n/x' is not a valid destination.\nrejected 1 code 404\n" +
			"error 404 fatal true: Unknown destination: '/n/x' is not a valid destination."},
		{"the only one", asked[:1], "ERROR|message:not_found||x$", "refused 1 code 404 retry 0s: not_found: x\nerror 404 fatal true: not_found: x"},
		{"one of several: the oldest subscription, for now", asked, "ERROR|message:not_found||x$", "refused 1 code 404 retry 2s: not_found: x\nerror 404 fatal true: not_found: x"},
		{"messages only: any of them may be meant", asked[2:], "ERROR|message:access_refused||x$", "error 403 fatal true: access_refused: x"},
		{"one of several, by the name of its queue", []wire.Op{asked[0], subscribeOp(3, "/amq/queue/q"), publishOp(1, wire.Message{Topic: "/queue/a"})},
			"ERROR|message:access_refused||access to queue 'q' in vhost '/' refused$",
			"refused 3 code 403 retry 0s: access_refused: access to queue 'q' in vhost '/' refused\nerror 403 fatal true: access_refused: access to queue 'q' in vhost '/' refused"},
		{"the name of a message's queue, too", []wire.Op{asked[0], publishOp(1, wire.Message{Topic: "/exchange/a/k"})}, "ERROR|message:not_found||no exchange 'a' in vhost '/'$",
			"refused 1 code 404 retry 2s: not_found: no exchange 'a' in vhost '/'\nerror 404 fatal true: not_found: no exchange 'a' in vhost '/'"},
		{"for now: a node is down", asked[:1], "ERROR|message:not_found||NOT_FOUND - home node 'b' of durable queue 'q' in vhost '/' is down or inaccessible$",
			"refused 1 code 404 retry 10s: not_found: NOT_FOUND - home node 'b' of durable queue 'q' in vhost '/' is down or inaccessible\n" +
				"error 404 fatal true: not_found: NOT_FOUND - home node 'b' of durable queue 'q' in vhost '/' is down or inaccessible"},
		{"for now, by receipt-id", asked, "ERROR|message:resource_locked|receipt-id:2||x$", "refused 2 code 400 retry 10s: resource_locked: x\nerror 400 fatal true: resource_locked: x"},
		{"a message for now", asked, "ERROR|message:resource_error|receipt-id:4||x$", "rejected 2 code 400\nerror 400 fatal true: resource_error: x"},
		{"a name is no reason", asked[:1], "ERROR|message:access_refused||access to queue 'internal_error' refused$",
			"refused 1 code 403 retry 0s: access_refused: access to queue 'internal_error' refused\nerror 403 fatal true: access_refused: access to queue 'internal_error' refused"},
		{"an acknowledgement", asked[:1], `ERROR|message:Invalid header||"ACK" must include a valid "id" header$`,
			`error 400 fatal true: Invalid header: "ACK" must include a valid "id" header`},
		{"messages behind the end of a subscription", asked[:1], strings.Repeat("ERROR|message:Subscription not found||There is no current subscription with tag 'T_7'.$", 3),
			"error 404 fatal false: Subscription not found: There is no current subscription with tag 'T_7'."},
		{"the broker stops", asked[:1], "ERROR|message:connection_forced||x$", "error 503 fatal true: connection_forced: x"},
		{"only the first decides", asked, "ERROR|message:a||x$ERROR|message:b||x$ERROR|message:c|receipt-id:4||x$",
			"refused 1 code 400 retry 2s: a: x\nerror 400 fatal true: a: x\nrejected 2 code 400"},
		{"what comes behind it still counts", asked, "ERROR|message:a|receipt-id:77||x$RECEIPT|receipt-id:4||$", "error 400 fatal true: a: x\nacked 11"},
	} {
		c := connect(t, Options{})
		encoded(t, c, row.ops...)
		if got := said(t, c, row.text); got != row.want {
			t.Errorf("%s:\ngot  %s\nwant %s", row.name, got, row.want)
		}
	}
	c := connect(t, Options{})
	encoded(t, c, asked...)
	if got := said(t, c, "RECEIPT|receipt-id:1||$RECEIPT|receipt-id:4||$RECEIPT|receipt-id:2||$"); got != "subscribed 1\nacked 11\nsubscribed 2" {
		t.Error(got)
	}
	if got := fmt.Sprint(c.(*codec).open()); got != "[3]" {
		t.Error(got)
	}
}

// A passcode is in no text, nor in a print of the dialect.
func TestPasscodeIsHidden(t *testing.T) {
	o := Options{Login: "heron", Passcode: "s3cret"}
	if got := said(t, open(t, o, wire.Resume{ReadLimit: 1000}), "ERROR|message:Bad CONNECT s3cret||s3cret is wrong\x01$"); got != "error 401 fatal true: Bad CONNECT ***: *** is wrong " {
		t.Errorf("%q", got)
	}
	if got := fmt.Sprintf("%v %+v %#v", New(o), New(o), New(o)); strings.Contains(got, "s3cret") {
		t.Error(got)
	}
}

func TestCheck(t *testing.T) {
	for field, o := range map[string]Options{
		"": {Login: "a", Passcode: "b", Host: "/", Prefetch: 65535}, "Login": {Login: "a\n"}, "Passcode": {Passcode: "s3cret\x00"},
		"Host": {Host: "\xff"}, "CSRF": {CSRF: "csrf"}, "CSRF ": {CSRF: "//other.example/csrf"}, "Prefetch": {Prefetch: -1}, "Prefetch ": {Prefetch: 65536},
	} {
		err := New(o).(wire.Checker).Check()
		oe, ok := err.(*OptionError)
		if ok != (field != "") || ok && (oe.Field != strings.TrimSpace(field) || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%q: %v", field, err)
		}
	}
}

func TestCheckTopic(t *testing.T) {
	for topic, ok := range map[string]bool{"/queue/q": true, "any": true, "": false, "a\nb": false, "\xff": false, strings.Repeat("a", 1025): false} {
		for _, use := range []wire.Use{wire.UsePublish, wire.UseSubscribe} {
			err := New(Options{}).CheckTopic(use, topic)
			if te, is := err.(*TopicError); is == ok || is && len(te.Topic) > 255 {
				t.Errorf("%q: %v", topic, err)
			}
		}
	}
}

func TestTraits(t *testing.T) {
	if tr := New(Options{}).Traits(); !tr.Acks || !tr.Confirms || tr.Ping != wire.PingOp || tr.Resume || tr.Sessions || tr.Credit || !tr.ErrorStaysOpen {
		t.Errorf("%+v", tr)
	}
	if tr := New(Options{NoReceipts: true}).Traits(); tr.Acks || tr.Confirms || tr.Ping != wire.PingControl {
		t.Errorf("%+v", tr)
	}
	c := connect(t, Options{NoReceipts: true})
	if got := encoded(t, c, subscribeOp(1, "/q"), publishOp(1, wire.Message{Topic: "/q"})); strings.Contains(got, "receipt") {
		t.Error(got)
	}
	for none, want := range map[bool]int{false: 3, true: 0} {
		var a wire.Attempt
		if err := New(Options{NoSubprotocol: none}).Attempt(&a); err != nil || len(a.Subprotocols) != want || !a.Dial {
			t.Errorf("%+v, %v", a, err)
		}
	}
}
