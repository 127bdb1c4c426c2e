package member

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/warrennet/warren/internal/store/etcd/admin"
)

// RestoreFile in the data directory is a snapshot that somebody put there: the member begins a new cluster with it.
const RestoreFile = "restore.db"

// restore does so. Every step may be repeated, and the file is renamed last: a member that dies in between begins
// again. The former data is moved aside, and the other members find that they are not recorded any more.
func (c Config) restore(ctx context.Context) error {
	file := filepath.Join(c.DataDir, RestoreFile)
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	c.Log.Info("beginning a new cluster with a snapshot", "file", file)
	fresh := filepath.Join(c.DataDir, "restoring")
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	stamp := time.Now().UTC().Format("20060102T150405Z")
	if err := admin.Restore(admin.Restored{File: file, DataDir: fresh, Name: c.Name, PeerURL: c.url(c.PeerPort), Token: "warren-" + stamp}); err != nil {
		return err
	}
	if err := c.Registry.Restart(ctx, c.Name, c.entry()); err != nil {
		return fmt.Errorf("record the restored member: %w", err)
	}
	if _, err := os.Stat(c.etcdDir()); err == nil {
		if err := os.Rename(c.etcdDir(), c.etcdDir()+"-before-"+stamp); err != nil {
			return err
		}
	}
	if err := os.Rename(fresh, c.etcdDir()); err != nil {
		return err
	}
	return os.Rename(file, filepath.Join(c.DataDir, "restored-"+stamp+".db"))
}
