package cni

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/warrennet/warren/internal/api"
)

// unreachableFile is a file in the directory of the agent's socket. Its modification time is when STATUS first found the
// agent unreachable. Runtimes take a node out of service when STATUS fails, so a restart of the agent must not fail it;
// the plugin keeps no other state between calls.
const unreachableFile = "cni-agent-unreachable"

// unreachableGrace is how long STATUS succeeds without an agent. A restart takes less.
const unreachableGrace = 30 * time.Second

// status fails when ADD has been impossible for longer than a restart of the agent takes. The agent applies the same
// rule to its own readiness. Without the directory of the socket no agent has run since the node booted, and STATUS
// fails at once.
func (c *call) status() error {
	marker := filepath.Join(filepath.Dir(c.socket), unreachableFile)
	body, err := c.callAgent(api.CNIStatusPath, nil)
	if errors.Is(err, errUnreachable) {
		if since, ok := markUnreachable(marker); ok && time.Since(since) < unreachableGrace {
			return nil
		}
		// Without an agent no process reads the tunnel device either: Pods of this node cannot reach other nodes.
		return unreachable(api.CodeLimited, c.socket, err)
	}
	if err != nil {
		return err
	}
	_ = os.Remove(marker) // mostly missing
	r, err := decodeStatusReply(api.CNIStatusPath, body)
	if err != nil {
		return err
	}
	if r.Code != 0 {
		return &api.Error{Code: r.Code, Message: "warren cannot attach Pods on this node", Details: r.Reason}
	}
	return nil
}

// markUnreachable returns the marker's time. It creates the marker where there is none; ok is false when it cannot.
func markUnreachable(marker string) (since time.Time, ok bool) {
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
