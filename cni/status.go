package cni

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/warrennet/warren/internal/api"
)

// awayName is a file beside the agent's socket whose time tells since when STATUS has found no agent. Runtimes take a
// node out of service when STATUS fails, so a restart must not show; the plugin itself remembers nothing, hence a file.
const awayName = "cni-away"

// awayGrace is longer than a restart of the agent takes.
const awayGrace = 30 * time.Second

// status fails when no ADD has been possible for longer than a restart takes. The agent judges its own readiness the
// same way. Where not even the agent's directory exists, no agent has run since the node booted.
func (c *call) status() error {
	marker := filepath.Join(filepath.Dir(c.socket), awayName)
	answer, err := c.askAgent(api.CNIStatusPath, nil)
	r := readStatus(answer)
	if err == nil {
		_ = os.Remove(marker) // it is there only after an absence
	}
	switch {
	case err == nil && r.Code != 0:
		return &api.Error{Code: r.Code, Message: "warren cannot plug Pods on this node", Details: r.Reason}
	case !errors.Is(err, errAway):
		return err
	}
	if since, ok := awaySince(marker); ok && time.Since(since) < awayGrace {
		return nil
	}
	// Without an agent the tunnel has no reader either: what runs here reaches no other node.
	return &api.Error{Code: api.CodeLimited, Message: "the warren agent of this node does not answer on " + c.socket, Details: err.Error()}
}

// awaySince reads the marker's time and makes the marker where there is none.
func awaySince(marker string) (time.Time, bool) {
	f, err := os.OpenFile(marker, os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		f.Close()
		return time.Now(), true
	}
	st, err := os.Stat(marker)
	if err != nil {
		return time.Time{}, false
	}
	return st.ModTime(), true
}
