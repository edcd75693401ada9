package wire

import (
	"errors"
	"unicode/utf8"
)

// Base has the methods of a Dialect that are the same for most servers. Embed it, and write
// those that your server needs in another form.
type Base struct{}

// Attempt dials the URL of the client. The token, if there is one, becomes the header
// Authorization (RFC 6750, section 2.1), unless the client sets that header itself.
func (Base) Attempt(a *Attempt) error {
	if a.Token != "" && a.Header.Get("Authorization") == "" {
		a.Header.Set("Authorization", "Bearer "+a.Token)
	}
	a.Dial = true
	return nil
}

// Verdict leaves every failure to the client's tables of HTTP statuses and close codes.
func (Base) Verdict(Failure) Verdict { return Verdict{} }

// EncodeEach is Encode for a Codec that makes the frames of each op by themselves. If encode
// returns an error, EncodeEach returns it as an *OpError: encode must then have appended
// nothing.
func EncodeEach(ops []Op, out *Frames, encode func(*Op, *Frames) error) error {
	for i := range ops {
		if err := encode(&ops[i], out); err != nil {
			return &OpError{Index: i, Err: err}
		}
	}
	return nil
}

var errNotUTF8 = errors.New("not UTF-8, as a text message must be (RFC 6455, section 5.6); send UTF-8, or a binary message if the server takes one")

// AppendText adds a text frame like Append, or returns an error and adds nothing if data is
// not UTF-8: a peer ends a connection for such a frame.
func (f *Frames) AppendText(data []byte) error {
	if !utf8.Valid(data) {
		return errNotUTF8
	}
	f.Append(Text, data)
	return nil
}
