// Package listen opens the agent's listening sockets and keeps them.
//
// A socket that cannot be opened, most often because another process has its port, is a problem of the status and is opened again
// later: it never ends or blocks the agent. Every socket stays open from its first use until Keep drops it or Close: while a server
// restarts inside of the agent, no other process can bind its port. A Keeper has further descriptors for the next process.
//
// The package owns one descriptor per socket and the list of problems. It reads /proc/net and /proc/<pid>/fd to name the process
// that has a port. It starts no goroutine and serves nothing.
package listen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Keeper has descriptors while no agent runs, as the service manager does (FDSTORE, sd_notify(3)).
type Keeper interface {
	// Store keeps a duplicate of the descriptor. A later process receives it with that name.
	Store(name string, fd int) error
	// Remove closes the duplicates with that name.
	Remove(name string) error
}

// Config is what Sockets work with.
type Config struct {
	Log    *slog.Logger
	Keeper Keeper // nil: sockets end with the process
	// Inherited are descriptors that the Keeper had, by name. Sockets own them.
	Inherited map[string]int
}

// Sockets are the listening sockets of one process. Its methods may be called from any goroutine.
type Sockets struct {
	log    *slog.Logger
	keeper Keeper

	mu       sync.Mutex
	held     map[string]int // descriptors by name of the socket
	problems map[string]*problem
}

// problem is the failure of one part of the agent to open its sockets.
type problem struct {
	text   string // as the status shows it
	holder holder
}

// New returns sockets that have only the inherited ones.
func New(c Config) *Sockets {
	s := &Sockets{log: c.Log, keeper: c.Keeper, held: map[string]int{}, problems: map[string]*problem{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	maps.Copy(s.held, c.Inherited)
	return s
}

// Bounds of the pause between two attempts. A port that becomes free is served within maxPause.
const (
	minPause = 100 * time.Millisecond
	maxPause = 5 * time.Second
)

// Run calls serve until ctx ends: again at once after it returned nil, and after a pause that grows when it returned an error. serve
// calls up, in its own goroutine, once its sockets are open. From an error until then, part has a problem. part names what does not
// work for an operator, such as "metrics".
func (s *Sockets) Run(ctx context.Context, part string, serve func(ctx context.Context, up func()) error) {
	var pause time.Duration
	for ctx.Err() == nil {
		err := serve(ctx, func() {
			pause = 0
			s.Report(part, nil)
		})
		if err == nil || ctx.Err() != nil {
			continue
		}
		s.Report(part, err)
		pause = min(max(2*pause, minPause), maxPause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// Report sets or clears the problem of a part. It logs the beginning, each change and the end. One goroutine reports about a part.
func (s *Sockets) Report(part string, err error) {
	s.mu.Lock()
	last, own := s.problems[part], s.inodes()
	s.mu.Unlock()
	if err == nil {
		if last != nil {
			s.set(part, nil)
			s.log.Info("socket open; the earlier problem is resolved", "name", part)
		}
		return
	}
	p := &problem{text: part + ": " + err.Error()}
	if last != nil {
		p.holder = last.holder
	}
	if errors.Is(err, unix.EADDRINUSE) {
		p.holder.find(err, own)
		if h := p.holder.String(); h != "" {
			p.text += ", " + h
		}
	}
	p.text += "; retrying"
	s.set(part, p)
	if last == nil || last.text != p.text {
		s.log.Error("cannot open a socket; retrying", "name", part, "err", err, "conflict", p.holder.String())
	}
}

// set replaces the problem of a part; nil: none.
func (s *Sockets) set(part string, p *problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if delete(s.problems, part); p != nil {
		s.problems[part] = p
	}
}

// Problems lists the parts whose sockets are not open, each with the reason.
func (s *Sockets) Problems() (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, part := range slices.Sorted(maps.Keys(s.problems)) {
		out = append(out, s.problems[part].text)
	}
	return out
}

// Problem returns why the sockets of a part are not open, "" if they are.
func (s *Sockets) Problem(part string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.problems[part]; p != nil {
		return p.text
	}
	return ""
}

// Keep closes the sockets of a role that are not among keep. Their ports are free then.
func (s *Sockets) Keep(role string, keep ...Socket) {
	names := map[string]bool{}
	for _, k := range keep {
		names[k.name()] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.held {
		if strings.HasPrefix(name, role+".") && !names[name] {
			s.drop(name)
		}
	}
}

// KeepRoles closes the sockets of all roles but these: those that an agent of another version has left.
func (s *Sockets) KeepRoles(roles ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.held {
		if role, _, _ := strings.Cut(name, "."); !slices.Contains(roles, role) {
			s.drop(name)
		}
	}
}

// drop closes a socket for good. The caller holds mu.
func (s *Sockets) drop(name string) {
	unix.Close(s.held[name])
	delete(s.held, name)
	if s.keeper == nil {
		return
	}
	if err := s.keeper.Remove(name); err != nil {
		s.log.Warn("cannot remove a socket from the service manager's store", "name", name, "err", err)
	}
}

// Close closes the descriptors. Those of the Keeper stay open.
func (s *Sockets) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for name, fd := range s.held {
		if err := unix.Close(fd); err != nil {
			errs = append(errs, fmt.Errorf("close socket %s: %w", name, err))
		}
	}
	clear(s.held)
	return errors.Join(errs...)
}
