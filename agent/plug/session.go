package plug

import (
	"context"
	"net"
	"time"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/ipam"
)

type sessionKey struct{}

// session is one connection of the plugin. It holds at most one reservation, from add to commit.
type session struct {
	began   time.Time
	ended   chan struct{} // closed when the connection is gone and everything is undone
	pending *ipam.Record  // guarded by Server.mu
}

func (s *Server) connected(ctx context.Context, c net.Conn) context.Context {
	ses := &session{began: s.now(), ended: make(chan struct{})}
	s.conns.Store(c, ses)
	return context.WithValue(ctx, sessionKey{}, ses)
}

// disconnected undoes what the connection left unfinished. The kernel has ended the plugin's own work by then: a
// process lets go of its sockets after its last system call.
func (s *Server) disconnected(c net.Conn) {
	v, ok := s.conns.LoadAndDelete(c)
	if !ok {
		return
	}
	ses := v.(*session)
	s.mu.Lock()
	r := ses.pending
	s.mu.Unlock()
	if r != nil {
		s.Log.Info("an ADD ended before its commit; undoing it", "container", r.ContainerID, "interface", r.IfName)
		if err := s.undo(*r); err != nil {
			s.Log.Error("cannot undo an ADD; the reconciler tries again", "container", r.ContainerID, "err", err)
		}
		s.mu.Lock()
		ses.pending = nil
		delete(s.sessions, r.Attachment)
		s.mu.Unlock()
	}
	close(ses.ended)
}

// undo takes an interface and its record away.
func (s *Server) undo(r ipam.Record) error {
	if err := s.Links.Delete(r.HostIfName); err != nil {
		return err // the address stays held as long as the interface may live
	}
	_, _, err := s.Pool.Release(r.Attachment)
	return err
}

func sessionOf(r *request) *session {
	ses, _ := r.Context().Value(sessionKey{}).(*session)
	return ses
}

// claim makes the session the only one that works on an attachment. It waits for the end of another one, because a
// runtime may try again before the end of a killed plugin's connection was seen.
func (s *Server) claim(r *request, at api.Attachment) (*session, error) {
	ses := sessionOf(r)
	if ses == nil {
		return nil, &api.Error{Code: api.CodeInternal, Message: "the connection is not known: plug.Server is not attached"}
	}
	ctx, cancel := context.WithTimeout(r.Context(), claimWait)
	defer cancel()
	for {
		s.mu.Lock()
		other := s.sessions[at]
		if other == nil && ses.pending == nil {
			s.sessions[at] = ses
			s.mu.Unlock()
			return ses, nil
		}
		s.mu.Unlock()
		if other == nil || other == ses {
			return nil, &api.Error{Code: api.CodeInternal, Message: "one connection may hold one reservation"}
		}
		select {
		case <-other.ended:
		case <-ctx.Done():
			return nil, &api.Error{Code: api.CodeTryAgain, Message: "another ADD of " + ipam.Name(at) + " is under way"}
		}
	}
}

// holds says whether the connection has an ADD of the attachment under way.
func (s *Server) holds(ses *session, at api.Attachment) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ses != nil && ses.pending != nil && ses.pending.Attachment == at
}

// release lets go of an attachment that was claimed.
func (s *Server) release(at api.Attachment, ses *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[at] == ses {
		delete(s.sessions, at)
	}
	ses.pending = nil
}
