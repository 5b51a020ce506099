package main

import (
	"context"
	"encoding/json"
	"sync"
	"time"
)

// The most calls whose lateness is kept between two reports.
const maxLate = 100_000

// A report is what the harness reads of the calls since the last one.
type report struct {
	Calls   uint64  `json:"calls"`
	Late    []int64 `json:"late_ms"`
	Granted []int64 `json:"granted_ms"`
	Running uint64  `json:"running"`
}

// A ledger counts calls, above all those whose time is up.
type ledger struct {
	mu     sync.Mutex
	report report
	open   map[uint64]time.Time
	calls  uint64
}

func newLedger() *ledger {
	return &ledger{open: map[uint64]time.Time{}}
}

// enter notes that a call begins; what it returns notes its end.
func (l *ledger) enter(ctx context.Context) func() {
	expiry, limited := ctx.Deadline()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.Calls++
	if !limited {
		return func() {}
	}
	granted := time.Until(expiry).Milliseconds()
	if l.report.Granted == nil {
		l.report.Granted = []int64{granted, granted}
	}
	l.report.Granted[0] = max(l.report.Granted[0], granted)
	l.report.Granted[1] = min(l.report.Granted[1], granted)
	l.calls++
	call := l.calls
	l.open[call] = expiry
	return func() { l.leave(call, expiry) }
}

func (l *ledger) leave(call uint64, expiry time.Time) {
	late := time.Since(expiry)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, call)
	if late >= 0 && len(l.report.Late) < maxLate {
		l.report.Late = append(l.report.Late, late.Milliseconds())
	}
}

// take gives what was counted since the last time, as JSON.
func (l *ledger) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.report
	l.report = report{}
	now := time.Now()
	for _, expiry := range l.open {
		if expiry.Before(now) {
			taken.Running++
		}
	}
	if taken.Late == nil {
		taken.Late = []int64{}
	}
	text, err := json.Marshal(taken)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
