//! Which physical pages several processes really share. Fed with page-frame numbers, it knows no file and no process.
