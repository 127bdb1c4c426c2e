package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/agent/localapi"
	"github.com/warrennet/warren/internal/api"
)

// socketFlag adds the flag for the path of the agent's socket.
func socketFlag(c *cobra.Command) {
	c.Flags().String("socket", filepath.Join(config.Default().RunDir, localapi.SocketName), "the agent's local API")
}

// callAgent makes one call on the agent's socket. in is sent as JSON unless nil, the answer is decoded into out unless
// nil; an error in the answer is returned as an error.
func callAgent(c *cobra.Command, method, path string, in, out any) error {
	socket, err := c.Flags().GetString("socket")
	if err != nil {
		return err
	}
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(c.Context(), method, "http://agent"+path, body)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn,
		error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("no agent answers at %s (is `warren agent` running, and are you root?): %w", socket, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var e api.Error
		if json.NewDecoder(resp.Body).Decode(&e) != nil || e.Message == "" {
			return fmt.Errorf("the agent answered %s", resp.Status)
		}
		return errors.New(e.Message)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}
