package wire

import (
	"strings"
	"testing"
	"time"
)

func TestConnectionLimitsCheck(t *testing.T) {
	for _, test := range []struct {
		limits ConnectionLimits
		field  string
	}{
		{ConnectionLimits{}, ""},
		{ConnectionLimits{Messages: 1}, ""},
		{ConnectionLimits{Messages: 480, Per: time.Hour, Burst: 20, Subscriptions: 1024, Age: 24 * time.Hour}, ""},
		{ConnectionLimits{Messages: 1e9, Per: time.Millisecond, Burst: 1e9, Subscriptions: 1e9, Age: time.Minute}, ""},
		{ConnectionLimits{Subscriptions: 1}, ""},
		{ConnectionLimits{Age: 366 * 24 * time.Hour}, ""},
		{ConnectionLimits{Messages: -1}, "Messages"},
		{ConnectionLimits{Messages: 1e9 + 1}, "Messages"},
		{ConnectionLimits{Messages: 1, Burst: -1}, "Burst"},
		{ConnectionLimits{Burst: 20}, "Burst"},
		{ConnectionLimits{Messages: 1, Per: -time.Second}, "Per"},
		{ConnectionLimits{Messages: 1, Per: 60}, "Per"},
		{ConnectionLimits{Messages: 1, Per: 25 * time.Hour}, "Per"},
		{ConnectionLimits{Per: time.Second}, "Per"},
		{ConnectionLimits{Dials: 300, DialsPer: 5 * time.Minute}, ""},
		{ConnectionLimits{Dials: 1e5}, ""},
		{ConnectionLimits{Dials: -1}, "Dials"},
		{ConnectionLimits{Dials: 1e5 + 1}, "Dials"},
		{ConnectionLimits{DialsPer: time.Minute}, "DialsPer"},
		{ConnectionLimits{Dials: 1, DialsPer: 60}, "DialsPer"},
		{ConnectionLimits{Dials: 1, DialsPer: -time.Minute}, "DialsPer"},
		{ConnectionLimits{Dials: 1, DialsPer: 25 * time.Hour}, "DialsPer"},
		{ConnectionLimits{Subscriptions: -1}, "Subscriptions"},
		{ConnectionLimits{Age: -time.Hour}, "Age"},
		{ConnectionLimits{Age: 24}, "Age"},
		{ConnectionLimits{Age: 367 * 24 * time.Hour}, "Age"},
	} {
		field, problem := test.limits.Check()
		if field != test.field || (problem == "") != (field == "") {
			t.Errorf("%+v: %q %q, want %q", test.limits, field, problem, test.field)
		}
		if field != "" && !strings.Contains(problem, "use 0") && !strings.Contains(problem, "needs") {
			t.Errorf("%q does not say what to do", problem)
		}
	}
}
