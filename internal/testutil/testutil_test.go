package testutil

import (
	"errors"
	"testing"
	"time"
)

// recorder is a testing.TB that records failures instead of ending the test.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Helper() {}

func (r *recorder) Fatal(...any) { r.failed = true; panic(r) }

func (r *recorder) Fatalf(string, ...any) { r.failed = true; panic(r) }

func fails(t *testing.T, f func(testing.TB)) bool {
	r := &recorder{TB: t}
	func() {
		defer func() {
			if p := recover(); p != nil && p != any(r) {
				panic(p)
			}
		}()
		f(r)
	}()
	return r.failed
}

func TestEventuallyWithin_CheckNeverSucceeds_FailsTheTest(t *testing.T) {
	calls := 0
	if !fails(t, func(t testing.TB) {
		EventuallyWithin(t, 20*time.Millisecond, "condition", func() error { calls++; return errors.New("not yet") })
	}) {
		t.Error("the test did not fail")
	}
	if calls < 2 {
		t.Errorf("check was called %d times, expected several", calls)
	}
}

func TestEventually_CheckSucceedsLater_Returns(t *testing.T) {
	calls := 0
	if fails(t, func(t testing.TB) {
		Eventually(t, "third call", func() error {
			if calls++; calls < 3 {
				return errors.New("not yet")
			}
			return nil
		})
	}) {
		t.Error("the test failed")
	}
}

func TestMust_Error_FailsTheTest(t *testing.T) {
	if !fails(t, func(t testing.TB) { Must(t, errors.New("broken")) }) ||
		!fails(t, func(t testing.TB) { Value[int](t)(0, errors.New("broken")) }) {
		t.Error("an error did not fail the test")
	}
	if fails(t, func(t testing.TB) { Must(t, nil) }) {
		t.Error("nil failed the test")
	}
}
