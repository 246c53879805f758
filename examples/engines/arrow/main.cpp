// SPDX-License-Identifier: Apache-2.0
// Reads a table of two columns from a file and scans it, in Apache Arrow:
//
//     engine_arrow --memory engine|mmap|libgmem [--mib 512] [--folder FOLDER]
//
// engine: Arrow's default pool. mmap: the columns are the file's pages. libgmem: gmem::engines::arrow_memory_pool.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <arrow/api.h>
#include <arrow/compute/api.h>
#include <arrow/compute/initialize.h>
#include <arrow/io/api.h>
#include <arrow/ipc/api.h>

#include <libgmem.hpp>
#include <libgmem/engines/arrow.hpp>

#include "measure.hpp"

namespace {

void need(const arrow::Status &status) {
	if (!status.ok()) {
		std::fprintf(stderr, "%s\n", status.ToString().c_str());
		std::exit(1);
	}
}
template <class T>
T need(arrow::Result<T> result) {
	need(result.status());
	return std::move(result).ValueUnsafe();
}

/// Write the table once: two columns of one chunk.
void need_table(const std::string &path, std::int64_t rows) {
	if (std::ifstream(path)) {
		return;
	}
	std::vector<float> values(static_cast<std::size_t>(rows));
	std::vector<std::shared_ptr<arrow::Array>> columns;
	for (std::uint32_t seed = 1; seed <= 2; ++seed) {
		measure::fill(values.data(), values.size(), seed);
		arrow::FloatBuilder builder;
		need(builder.AppendValues(values));
		columns.push_back(need(builder.Finish()));
	}
	const auto schema =
		arrow::schema({arrow::field("price", arrow::float32()), arrow::field("amount", arrow::float32())});
	const auto out = need(arrow::io::FileOutputStream::Open(path));
	const auto writer = need(arrow::ipc::MakeFileWriter(out, schema));
	need(writer->WriteRecordBatch(*arrow::RecordBatch::Make(schema, rows, columns)));
	need(writer->Close());
	need(out->Close());
}

std::shared_ptr<arrow::RecordBatch> read(const std::string &path, bool map, arrow::MemoryPool *pool) {
	std::shared_ptr<arrow::io::RandomAccessFile> file;
	if (map) {
		file = need(arrow::io::MemoryMappedFile::Open(path, arrow::io::FileMode::READ));
	} else {
		file = need(arrow::io::ReadableFile::Open(path, pool));
	}
	auto options = arrow::ipc::IpcReadOptions::Defaults();
	options.memory_pool = pool;
	options.use_threads = false;
	return need(need(arrow::ipc::RecordBatchFileReader::Open(file, options))->ReadRecordBatch(0));
}

/// The sum of price x amount, through a column of products.
double scan(const arrow::RecordBatch &table, arrow::compute::ExecContext &context) {
	namespace compute = arrow::compute;
	const arrow::Datum products =
		need(compute::Multiply(table.column(0), table.column(1), compute::ArithmeticOptions(), &context));
	const arrow::Datum sum = need(compute::Sum(products, compute::ScalarAggregateOptions::Defaults(), &context));
	return sum.scalar_as<arrow::DoubleScalar>().value;
}

} // namespace

int main(int argc, char **argv) {
	const std::string memory = measure::option(argc, argv, "memory", "libgmem");
	if (memory != "engine" && memory != "mmap" && memory != "libgmem") {
		std::fprintf(stderr, "--memory is %s; it is engine, mmap or libgmem\n", memory.c_str());
		return 2;
	}
	const auto rows = static_cast<std::int64_t>(std::stoul(measure::option(argc, argv, "mib", "512")) * 1048576 / 8);
	const std::string path = measure::option(argc, argv, "folder", ".") + "/table." + std::to_string(rows) + ".arrow";
	need_table(path, rows);
	need(arrow::compute::Initialize());

	gmem::engines::arrow_memory_pool ours;
	arrow::MemoryPool *const pool = memory == "libgmem" ? &ours : arrow::default_memory_pool();
	arrow::compute::ExecContext context(pool);
	context.set_use_threads(false);
	measure::report report;
	std::shared_ptr<arrow::RecordBatch> table;
	double sum = 0;
	report.phase("load", [&] { table = read(path, memory == "mmap", pool); });
	report.phase("first", [&] { sum = scan(*table, context); });
	report.phase("steady", [&] { sum = scan(*table, context); }, 5);
	report.phase("free", [&] {
		table.reset();
		pool->ReleaseUnused();
	});
	report.result(&sum, sizeof sum);
	report.print();
}
