// Package atomicfile replaces files atomically and durably. After a crash or a power loss a file has its old content
// or its new one, never a part of either. The package owns no file, no goroutine and no lock: two concurrent writers of
// one file are safe, and the last rename wins.
package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Write replaces path by a file with that content and those permission bits, whatever the umask. The folder of path
// must exist. A nil error means that content and name are on the disk.
func Write(path string, data []byte, perm fs.FileMode) error {
	return WriteTo(path, perm, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// WriteTo is Write for content that write produces. If write fails, path stays as it is.
func WriteTo(path string, perm fs.FileMode, write func(w io.Writer) error) error {
	f, err := Create(path, perm)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), f.Discard())
	}
	return errors.Join(f.Commit(), f.Close())
}

// WriteNew is Write for a file that must not exist yet: if path exists it stays as it is, and the error is fs.ErrExist.
// Of two concurrent callers one succeeds.
func WriteNew(path string, data []byte, perm fs.FileMode) error {
	f, err := Create(path, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync()); err == nil {
		err = os.Link(f.Name(), path)
	}
	if err = errors.Join(err, f.Discard()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// File is a temporary file in the folder of the file that it will replace. Exactly one of Commit and Discard ends its
// temporary state.
type File struct {
	*os.File // open for reading and writing
	path     string
}

// Create makes the temporary file for path. It begins with a dot, so that programs which read a folder of
// configuration files skip it.
func Create(path string, perm fs.FileMode) (*File, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+temporary+"*")
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	t := &File{f, path}
	if err := f.Chmod(perm); err != nil {
		return nil, errors.Join(fmt.Errorf("write %s: %w", path, err), t.Discard())
	}
	return t, nil
}

// Commit moves the file to its path and makes both durable: fsync of the file, rename, fsync of the folder. The file
// stays open for a caller that continues to write. If the rename fails the file is discarded.
func (f *File) Commit() error {
	err := f.Sync()
	if err == nil {
		err = os.Rename(f.Name(), f.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", f.path, err), f.Discard())
	}
	return syncDir(filepath.Dir(f.path))
}

// Discard closes and removes a file that was not committed.
func (f *File) Discard() error {
	err := f.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil
	}
	return errors.Join(err, os.Remove(f.Name()))
}

// RemoveTemporary removes the temporary files that a killed process left for path. The caller ensures that no process writes path.
func RemoveTemporary(path string) error {
	return removeTemporary(filepath.Dir(path), "."+filepath.Base(path)+temporary)
}

// RemoveTemporaryIn is RemoveTemporary for every file of a folder. A folder that does not exist has none.
func RemoveTemporaryIn(dir string) error { return removeTemporary(dir, "") }

// temporary is in the name of a temporary file, between the name of the file that it will replace and a number.
const temporary = ".tmp-"

// removeTemporary removes the temporary files of a folder whose names begin with prefix.
func removeTemporary(dir, prefix string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		name := e.Name()
		at := strings.LastIndex(name, temporary)
		if !e.Type().IsRegular() || at < 1 || name[0] != '.' || !strings.HasPrefix(name, prefix) ||
			strings.Trim(name[at+len(temporary):], "0123456789") != "" {
			continue
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove a temporary file of a killed process: %w", err))
		}
	}
	return errors.Join(errs...)
}

// syncDir makes the names in a folder durable (fsync(2) of the folder).
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	return nil
}
