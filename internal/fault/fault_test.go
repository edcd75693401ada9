package fault

import (
	"errors"
	"io"
	"testing"
)

func TestOfDialect(t *testing.T) {
	if err := OfDialect(nil); err != nil {
		t.Error(err)
	}
	var user *User
	if err := OfDialect(io.EOF); !errors.As(err, &user) || user.Option != OptionDialect || !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
	if named := (&User{Option: OptionAuth, Err: io.EOF}); OfDialect(named) != error(named) {
		t.Errorf("%v", OfDialect(named))
	}
}

// Only what Auth and Ticket return can be permanent.
func TestIsPermanent(t *testing.T) {
	for option, want := range map[string]bool{OptionAuth: true, OptionTicket: true, OptionDialect: false, OptionVerdict: false} {
		if got := IsPermanent(&User{Option: option, Err: &Permanent{Err: io.EOF}}); got != want {
			t.Errorf("%s: %v, want %v", option, got, want)
		}
	}
	for _, err := range []error{nil, io.EOF, &Permanent{Err: io.EOF}, &User{Option: OptionAuth, Err: io.EOF}} {
		if IsPermanent(err) {
			t.Errorf("%v is permanent", err)
		}
	}
}
