package limpet

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"

	"github.com/limpet-go/limpet/internal/endpoint"
	"github.com/limpet-go/limpet/internal/ticket"
)

// AttemptInfo tells Auth and Ticket what the credential is for.
type AttemptInfo struct {
	// Number is 1 more than the losses and failed attempts since the last stable
	// connection: 1 for the first attempt of a client.
	Number int

	// Host is the host and port of the endpoint.
	Host string

	// Refresh means that the server refused the last credential, or that it expires: return
	// a new one, not a cached one.
	Refresh bool

	// Connected means that the credential is not for an attempt: it is sent on the
	// connection in use, where the last one expires or the server wants a new one. Only its
	// Token is used. Refresh is set, too.
	Connected bool

	// Credential is what Auth has returned for this attempt. Only Ticket gets it.
	Credential Credential

	// Cause is why the last connection or attempt failed; nil before the first
	// failure.
	Cause error
}

// Credential is what Auth returns. It appears in no log, error or metric.
type Credential struct {
	// Header is sent with the upgrade request. It replaces entries of
	// Options.Header with the same key.
	Header http.Header

	// Token is sent in the handshake of the dialect, for limpet.v1 in HELLO. It
	// must be UTF-8 of at most 8 KiB without control characters.
	Token Secret

	// Subprotocols are offered in the upgrade request behind those of the dialect, for
	// servers that read a credential there. Each must be a token of RFC 9110, section
	// 5.6.2: encode what is none in base64url. The server should choose one of the
	// dialect's.
	Subprotocols []string
}

// Secret is a string whose content is not printed, logged or marshalled.
type Secret string

// String hides the secret.
func (Secret) String() string { return "[secret]" }

// GoString hides the secret.
func (Secret) GoString() string { return "limpet.Secret([secret])" }

// LogValue hides the secret.
func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// MarshalText hides the secret.
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

func (s Secret) reveal() string { return string(s) }

// String hides the credential.
func (c Credential) String() string { return "[credential]" }

// GoString hides the credential.
func (c Credential) GoString() string { return "limpet.Credential([secret])" }

// LogValue hides the credential.
func (c Credential) LogValue() slog.Value { return slog.StringValue("[credential]") }

// MarshalJSON hides the credential.
func (c Credential) MarshalJSON() ([]byte, error) { return json.Marshal("[credential]") }

// info is what the caller learns about an attempt.
func (d *dialer) info(a attempt) AttemptInfo {
	return AttemptInfo{Number: a.number, Host: a.url.Host, Refresh: a.refresh, Cause: a.cause}
}

// credential calls Auth.
func (d *dialer) credential(ctx context.Context, a attempt) (cred Credential, err error) {
	for again := d.cfg.Auth != nil; again; {
		cred, err = d.auth.ask(ctx, func() (Credential, error) { return d.cfg.Auth(ctx, d.info(a)) })
		again = err == errStillRuns && d.auth.settle(ctx) // it was for the connection before
	}
	if err != nil {
		return cred, err
	}
	d.noteSecrets(&cred, &a)
	return cred, cred.check()
}

// target calls Ticket and returns the URL of the endpoint with the ticket, and the ticket.
func (d *dialer) target(ctx context.Context, a attempt, cred Credential) (target string, values url.Values, err error) {
	if d.cfg.Ticket == nil {
		return a.url.String(), nil, nil
	}
	info := d.info(a)
	info.Credential = cred
	values, err = d.ticket.ask(ctx, func() (url.Values, error) {
		values, err := d.cfg.Ticket(ctx, info)
		return url.Values(http.Header(values).Clone()), err
	})
	if err != nil {
		return "", nil, err
	}
	for _, v := range values {
		d.secrets.Add(v...)
	}
	target, err = endpoint.WithQuery(a.url, values)
	return target, values, err
}

// noteSecrets makes the credentials of an attempt known as secrets.
func (d *dialer) noteSecrets(cred *Credential, a *attempt) {
	d.secrets.Begin(a.url.String(), d.cfg.Header, a.inUse)
	d.secrets.Add(cred.Token.reveal())
	d.secrets.AddRequest("", cred.Header)
	d.secrets.AddSubprotocols(cred.Subprotocols)
	for i := range a.subs {
		d.secrets.Add(a.subs[i].Token)
	}
}

// TicketOptions are the options of TicketFrom. The zero value, like nil, means the
// defaults.
type TicketOptions struct {
	// HTTPClient makes the request. Redirects are not followed. Defaults to what
	// Options.HTTPClient defaults to.
	HTTPClient *http.Client

	// Header returns the headers of the request. Defaults to Credential.Header, what Auth
	// has returned for the attempt.
	Header func(ctx context.Context, info AttemptInfo) (http.Header, error)

	// Member is the member of the JSON answer that holds the ticket, a string. Dots lead
	// to inner objects: "data.token". Defaults to "ticket".
	Member string

	// Parameter is the query parameter of the URL to dial. Defaults to the last name in
	// Member.
	Parameter string

	// AllowInsecure permits http:// to other machines than this one.
	AllowInsecure bool
}

// TicketFrom returns a function for Options.Ticket. It makes an empty POST request to
// endpoint, with the scheme https, or http for this machine, and takes the ticket from the
// answer, a JSON object of at most 64 KiB. o may be nil.
//
// A refusal, any status but 200 to 299, counts as if the upgrade had been refused with
// it (docs/reconnect.md, section 2): a 401 asks for a new credential at once, a
// Retry-After is obeyed. Of its body nothing is kept. Any other error fails the attempt.
// What is wrong with endpoint or o ends the client. The function may serve several clients.
func TicketFrom(endpoint string, o *TicketOptions) func(context.Context, AttemptInfo) (url.Values, error) {
	var opts TicketOptions
	if o != nil {
		opts = *o
	}
	source, wrong := ticket.New(ticket.Options{Client: opts.HTTPClient, URL: endpoint, AllowInsecure: opts.AllowInsecure, Member: opts.Member, Parameter: opts.Parameter})
	return func(ctx context.Context, info AttemptInfo) (values url.Values, err error) {
		if wrong != nil {
			return nil, Permanent(wrong)
		}
		h := info.Credential.Header
		if opts.Header != nil {
			if h, err = opts.Header(ctx, info); err != nil {
				return nil, err
			}
		}
		return source.Fetch(ctx, h)
	}
}
