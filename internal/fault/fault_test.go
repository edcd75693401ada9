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
