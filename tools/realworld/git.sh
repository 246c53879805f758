# SPDX-License-Identifier: Apache-2.0
# For tools/realworld.py: sh git.sh TREE COMMITS makes a repository of the files below TREE in the current folder,
# with so many commits, packs it, and prints what must not depend on how it was packed.
set -eu
tree=$1 commits=$2
git init --quiet --initial-branch=main work
cd work
count=0
while [ "$count" -lt "$commits" ]; do
	# The first commits add a file each (the list is long enough to be cut, and begins anew).
	for file in $(cd "$tree" && find . -name '*.*' -type f -size -200k | LC_ALL=C sort); do
		[ "$count" -lt "$commits" ] || break
		count=$((count + 1))
		export GIT_AUTHOR_DATE="$((1700000000 + count)) +0000" GIT_COMMITTER_DATE="$((1700000000 + count)) +0000"
		mkdir -p "$(dirname "$file")"
		sed "s/the/the$count/" "$tree/$file" > "$file"
		git add --force "$file"
		git commit --quiet --message "commit $count: $file"
		[ $((count % 50)) -ne 0 ] || git branch "side-$count" HEAD~10
	done
done
git gc --aggressive --quiet
git fsck --full --strict
git log --stat --all --graph > log
cat log
git log --patch --find-renames --find-copies | git hash-object --stdin
git cat-file --batch-all-objects --batch-check
git grep --count -e 'the[0-9]*' | git hash-object --stdin
git clone --quiet --no-local --bare . ../clone
git -C ../clone fsck --full
git -C ../clone for-each-ref
