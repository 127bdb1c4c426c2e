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

// RestoreFile is the name of a snapshot in the data directory. If the file exists, the member starts a new cluster from it.
const RestoreFile = "restore.db"

// restore starts a new cluster from RestoreFile, if it exists. Every step may be repeated, and the file is renamed last, so
// that an interrupted restore starts again. The former data is moved aside. The other members are no longer in the
// ConfigMap and refuse to start.
func (c Config) restore(ctx context.Context) error {
	file := filepath.Join(c.DataDir, RestoreFile)
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	c.Log.Info("starting a new etcd cluster from a snapshot", "file", file)
	fresh := filepath.Join(c.DataDir, "restoring")
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	stamp := time.Now().UTC().Format("20060102T150405Z")
	if err := admin.Restore(admin.Restored{File: file, DataDir: fresh, Name: c.Name, PeerURL: c.url(c.PeerPort),
		Token: "warren-" + stamp}); err != nil {
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
